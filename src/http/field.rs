//! Fields, and which of them the proxy must know.
//!
//! A field keeps its bytes as they came; [`FieldName`] is found once, when the head is parsed, by
//! the name's length and then by one or two comparisons, so that no later pass compares strings.
//! Field values are not interpreted here.

/// One field of a head, as it came, with the name recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    pub name: &'b [u8],
    /// Without the white space around it.
    pub value: &'b [u8],
    pub kind: FieldName,
}

impl<'b> Field<'b> {
    /// Fills storage that no field has been written to yet.
    pub const EMPTY: Field<'static> = Field { name: b"", value: b"", kind: FieldName::Other };

    pub fn new(name: &'b [u8], value: &'b [u8]) -> Field<'b> {
        Field { name, value, kind: FieldName::of(name) }
    }

    /// The members of a comma-separated value, trimmed; empty members are left out
    /// (RFC 9110 section 5.6.1.2).
    pub fn members(&self) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let value = self.value;
        value.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
    }
}

/// The fields that the proxy acts on; all others are `Other` and pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FieldName {
    Other,
    Authorization,
    /// A trace's context in one field.
    B3,
    /// The same in up to five.
    B3Flags,
    B3ParentSpanId,
    B3Sampled,
    B3SpanId,
    B3TraceId,
    /// Reserved, for what the option of that name in `Connection` would name (RFC 9110 section
    /// 18.4).
    Close,
    Connection,
    ContentLength,
    Cookie,
    /// Linkerd's `l5d-ctx-deadline`.
    CtxDeadline,
    /// Linkerd's `l5d-ctx-trace`.
    CtxTrace,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    MaxForwards,
    ProxyAuthenticate,
    ProxyAuthenticationInfo,
    ProxyAuthorization,
    ProxyConnection,
    /// Linkerd's `l5d-reqid`.
    RequestId,
    /// Linkerd's `l5d-sample`.
    Sample,
    Te,
    /// W3C Trace Context.
    TraceParent,
    TraceState,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    WwwAuthenticate,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// `Content_Length` and the like: an origin that maps `_` to `-` would read framing from it.
    FramingTwin,
    /// `X_Forwarded_For` and the like: an origin that maps `_` to `-` would trust it as ours.
    ForwardedTwin,
}

impl FieldName {
    /// Recognises a name in any case.
    pub fn of(name: &[u8]) -> FieldName {
        use FieldName as F;
        match name.len() {
            2 => pick(name, &[(b"te", F::Te), (b"b3", F::B3)]),
            3 => pick(name, &[(b"via", F::Via)]),
            4 => pick(name, &[(b"host", F::Host), (b"date", F::Date)]),
            5 => pick(name, &[(b"close", F::Close)]),
            6 => pick(name, &[(b"cookie", F::Cookie), (b"expect", F::Expect)]),
            7 => pick(name, &[(b"upgrade", F::Upgrade), (b"trailer", F::Trailer)]),
            9 => pick(name, &[(b"forwarded", F::Forwarded), (b"l5d-reqid", F::RequestId)]),
            10 => pick(
                name,
                &[
                    (b"connection", F::Connection),
                    (b"keep-alive", F::KeepAlive),
                    (b"tracestate", F::TraceState),
                    (b"x-b3-flags", F::B3Flags),
                    (b"l5d-sample", F::Sample),
                ],
            ),
            11 => pick(name, &[(b"traceparent", F::TraceParent), (b"x-b3-spanid", F::B3SpanId)]),
            12 => pick(
                name,
                &[
                    (b"x-b3-traceid", F::B3TraceId),
                    (b"x-b3-sampled", F::B3Sampled),
                    (b"max-forwards", F::MaxForwards),
                ],
            ),
            13 => {
                pick(name, &[(b"authorization", F::Authorization), (b"l5d-ctx-trace", F::CtxTrace)])
            }
            14 => pick(
                name,
                &[
                    (b"content-length", F::ContentLength),
                    (b"http2-settings", F::Http2Settings),
                    (b"content_length", F::FramingTwin),
                ],
            ),
            15 => or_twin(name, pick(name, &[(b"x-forwarded-for", F::XForwardedFor)])),
            16 => {
                let known = [
                    (&b"x-forwarded-host"[..], F::XForwardedHost),
                    (b"proxy-connection", F::ProxyConnection),
                    (b"l5d-ctx-deadline", F::CtxDeadline),
                    (b"www-authenticate", F::WwwAuthenticate),
                ];
                or_twin(name, pick(name, &known))
            }
            17 => pick(
                name,
                &[
                    (b"transfer-encoding", F::TransferEncoding),
                    (b"transfer_encoding", F::FramingTwin),
                    (b"x-forwarded-proto", F::XForwardedProto),
                    (b"x-b3-parentspanid", F::B3ParentSpanId),
                ],
            )
            .or_else_twin(name),
            18 => pick(name, &[(b"proxy-authenticate", F::ProxyAuthenticate)]),
            19 => pick(name, &[(b"proxy-authorization", F::ProxyAuthorization)]),
            25 => pick(name, &[(b"proxy-authentication-info", F::ProxyAuthenticationInfo)]),
            _ => F::Other,
        }
    }

    fn or_else_twin(self, name: &[u8]) -> FieldName {
        or_twin(name, self)
    }
}

fn pick(name: &[u8], known: &[(&[u8], FieldName)]) -> FieldName {
    let found = known.iter().find(|(text, _)| name.eq_ignore_ascii_case(text));
    found.map_or(FieldName::Other, |(_, kind)| *kind)
}

/// An unknown name that reads `x-forwarded-for`, `-host` or `-proto` once `_` is taken for `-`.
fn or_twin(name: &[u8], found: FieldName) -> FieldName {
    if found != FieldName::Other || !matches!(name[0], b'x' | b'X') {
        return found;
    }
    let reads = |text: &[u8]| {
        name.len() == text.len()
            && name.iter().zip(text).all(|(&have, &want)| {
                have.eq_ignore_ascii_case(&want) || (have == b'_' && want == b'-')
            })
    };
    if reads(b"x-forwarded-for") || reads(b"x-forwarded-host") || reads(b"x-forwarded-proto") {
        return FieldName::ForwardedTwin;
    }
    FieldName::Other
}

/// Which known fields a head has; one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen(u64);

const _: () = assert!((FieldName::ForwardedTwin as u32) < u64::BITS);

impl Seen {
    /// What carries a trace's context, or a wish about sampling.
    pub const TRACING: Seen = Seen::of(&[
        FieldName::B3,
        FieldName::B3Flags,
        FieldName::B3ParentSpanId,
        FieldName::B3Sampled,
        FieldName::B3SpanId,
        FieldName::B3TraceId,
        FieldName::CtxTrace,
        FieldName::Sample,
        FieldName::TraceParent,
        FieldName::TraceState,
    ]);

    pub const fn of(names: &[FieldName]) -> Seen {
        let (mut seen, mut at) = (0, 0);
        while at < names.len() {
            seen |= 1 << names[at] as u32;
            at += 1;
        }
        Seen(seen)
    }

    pub fn add(&mut self, name: FieldName) {
        self.0 |= 1 << name as u32;
    }

    pub fn has(self, name: FieldName) -> bool {
        self.0 & (1 << name as u32) != 0
    }

    /// Those of this one, and one more.
    #[must_use]
    pub const fn with(self, name: FieldName) -> Seen {
        Seen(self.0 | 1 << name as u32)
    }

    /// Those that both have.
    #[must_use]
    pub fn and(self, other: Seen) -> Seen {
        Seen(self.0 & other.0)
    }

    /// Those of this one that the other has not.
    #[must_use]
    pub fn without(self, other: Seen) -> Seen {
        Seen(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Without the spaces and tabs at both ends (RFC 9110 section 5.6.3).
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        let known = [
            ("Host", FieldName::Host),
            ("TE", FieldName::Te),
            ("Close", FieldName::Close),
            ("closed", FieldName::Other),
            ("cOnTeNt-LeNgTh", FieldName::ContentLength),
            ("Transfer-Encoding", FieldName::TransferEncoding),
            ("X-Forwarded-For", FieldName::XForwardedFor),
            ("X-Forwarded-Host", FieldName::XForwardedHost),
            ("X-Forwarded-Proto", FieldName::XForwardedProto),
            ("Proxy-Connection", FieldName::ProxyConnection),
            ("proxy-authenticate", FieldName::ProxyAuthenticate),
            ("proxy-authorization", FieldName::ProxyAuthorization),
            ("Proxy-Authentication-Info", FieldName::ProxyAuthenticationInfo),
            ("www-authenticate", FieldName::WwwAuthenticate),
            ("http2-settings", FieldName::Http2Settings),
            ("Max-Forwards", FieldName::MaxForwards),
            ("content_length", FieldName::FramingTwin),
            ("Transfer_Encoding", FieldName::FramingTwin),
            ("L5d-Ctx-Deadline", FieldName::CtxDeadline),
            ("l5d_ctx_deadline", FieldName::Other),
            ("B3", FieldName::B3),
            ("X-B3-TraceId", FieldName::B3TraceId),
            ("x-b3-spanid", FieldName::B3SpanId),
            ("X-B3-PARENTSPANID", FieldName::B3ParentSpanId),
            ("X-B3-Sampled", FieldName::B3Sampled),
            ("x-b3-flags", FieldName::B3Flags),
            ("TraceParent", FieldName::TraceParent),
            ("tracestate", FieldName::TraceState),
            ("l5d-ctx-trace", FieldName::CtxTrace),
            ("L5d-ReqId", FieldName::RequestId),
            ("L5d-Sample", FieldName::Sample),
            ("trace-parent", FieldName::Other),
            ("X_Forwarded-For", FieldName::ForwardedTwin),
            ("x_forwarded_host", FieldName::ForwardedTwin),
            ("X-Forwarded_Proto", FieldName::ForwardedTwin),
            ("x-forwarded-fox", FieldName::Other),
            ("", FieldName::Other),
        ];
        for (name, kind) in known {
            assert_eq!(FieldName::of(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn sets_of_kinds() {
        let mut seen = Seen::default();
        assert!(seen.and(Seen::TRACING).is_empty());
        seen.add(FieldName::Host);
        seen.add(FieldName::XForwardedProto);
        assert!(seen.and(Seen::TRACING).is_empty());
        seen.add(FieldName::TraceState);
        assert_eq!(seen.and(Seen::TRACING), Seen::of(&[FieldName::TraceState]));
        let rest = seen.without(Seen::TRACING);
        assert_eq!(rest, Seen::of(&[FieldName::XForwardedProto, FieldName::Host]));
    }

    #[test]
    fn members_of_a_list() {
        let field = Field::new(b"Connection", b" close ,, \tTE,");
        assert_eq!(field.members().collect::<Vec<_>>(), [&b"close"[..], b"TE"]);
    }
}
