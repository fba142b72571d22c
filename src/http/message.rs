//! Requests and responses as views into the bytes that they came in.
//!
//! A view lives as long as the bytes (`'b`) and the field storage (`'s`); its `facts` are plain
//! values that outlive both, so that an exchange can keep them over a wait. All facts are settled
//! when the head is parsed: nobody after that interprets `Connection` or framing fields.

use super::{Deadline, Field, FieldName, Method, Seen, Target, Version};

/// How the body of a message is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, whatever the fields say.
    Empty,
    /// Exactly so many bytes; `Length(0)` came with `Content-Length: 0`.
    Length(u64),
    Chunked,
    /// Until the connection closes; only responses.
    UntilClose,
}

/// Where in a head's fields the protocol stands to which the connection may be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeToken {
    /// Index into the fields.
    pub field: u16,
    /// First byte of the token in that field's value.
    pub start: u16,
    pub len: u16,
    pub is_websocket: bool,
}

/// What a request's head says, settled once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts {
    /// `Empty`, `Length` or `Chunked`.
    pub framing: Framing,
    /// Whether the client wants to go on with this connection.
    pub persistent: bool,
    /// The client waits for 100 before it sends the body (1.1 only, and only with a body).
    pub expect_continue: bool,
    /// Asked for in `Upgrade` and announced in `Connection` (1.1 only). `websocket` where listed,
    /// else the first protocol other than `h2c`.
    pub upgrade: Option<UpgradeToken>,
    /// Of TRACE and OPTIONS only, where it is a number.
    pub max_forwards: Option<u64>,
    /// When it is to be over, where it says so in a form that can be read.
    pub deadline: Option<Deadline>,
    /// The client takes trailers.
    pub te_trailers: bool,
    /// It proves who its client is to the whole connection (NTLM, Negotiate), which is then of
    /// nobody else's use.
    pub binds: bool,
    /// `Connection` names fields beyond those that are never sent on anyway.
    pub nominates: bool,
    /// The known fields that came.
    pub seen: Seen,
}

/// A valid request head.
#[derive(Debug, Clone, Copy)]
pub struct Request<'b, 's> {
    pub method: Method,
    pub method_bytes: &'b [u8],
    pub target: Target<'b>,
    pub version: Version,
    /// The target's authority, else `Host`, else empty.
    pub host: &'b [u8],
    /// In the order in which they came.
    pub fields: &'s [Field<'b>],
    pub facts: RequestFacts,
}

impl<'b> Request<'b, '_> {
    /// The protocol that `facts.upgrade` points to.
    pub fn upgrade_token(&self) -> Option<&'b [u8]> {
        token(self.fields, self.facts.upgrade?)
    }

    /// TRACE or OPTIONS with `Max-Forwards: 0` is answered here (RFC 9110 section 7.6.2).
    pub fn is_for_us(&self) -> bool {
        self.facts.max_forwards == Some(0)
    }

    /// The value of the first field of that name, in any case.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        value_of(self.fields, name)
    }
}

/// What a response's head says, settled once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFacts {
    /// Of the body that follows; `Empty` for HEAD, 1xx, 204 and 304.
    pub framing: Framing,
    /// Whether the upstream's connection may be used again once the body ended.
    pub persistent: bool,
    /// 1xx other than 101: another response follows.
    pub is_interim: bool,
    /// `Connection` announces `Upgrade`.
    pub lists_upgrade: bool,
    /// As it came, also where no body follows (HEAD, 304).
    pub content_length: Option<u64>,
    /// `Connection` names fields beyond those that are never sent on anyway.
    pub nominates: bool,
    /// The known fields that came.
    pub seen: Seen,
}

/// A valid response head.
#[derive(Debug, Clone, Copy)]
pub struct Response<'b, 's> {
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    pub phrase: &'b [u8],
    pub fields: &'s [Field<'b>],
    pub facts: ResponseFacts,
}

impl<'b> Response<'b, '_> {
    /// A 101 says what it switches to, and that may only be what was asked for (RFC 9110 section
    /// 7.8): a client that does not go along would read the new protocol as an answer. Several are
    /// layers, all of which it switches to (section 15.2.2), and no choice.
    pub fn switches_to(&self, protocol: &str) -> bool {
        let fields = self.fields.iter().filter(|it| it.kind == FieldName::Upgrade);
        let mut named = fields.flat_map(Field::members).peekable();
        self.facts.lists_upgrade
            && named.peek().is_some()
            && named.all(|it| it.eq_ignore_ascii_case(protocol.as_bytes()))
    }

    /// The value of the first field of that name, in any case.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        value_of(self.fields, name)
    }

    /// A proxy behind us says that it never delivered the request (Linkerd's `l5d-retryable`).
    pub fn is_retryable(&self) -> bool {
        self.field("l5d-retryable").is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
    }
}

fn token<'b>(fields: &[Field<'b>], at: UpgradeToken) -> Option<&'b [u8]> {
    let field = fields.get(usize::from(at.field)).filter(|it| it.kind == FieldName::Upgrade)?;
    field.value.get(usize::from(at.start)..usize::from(at.start) + usize::from(at.len))
}

fn value_of<'b>(fields: &[Field<'b>], name: &str) -> Option<&'b [u8]> {
    let found = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|field| field.value)
}
