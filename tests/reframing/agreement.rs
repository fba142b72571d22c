//! Whether a reader saw what was meant.

use crate::forward::{End, Meant, Sent};
use crate::leniency::Reader;
use crate::readers::{Message, Rest};

/// Panics where it did not; `came` is what all began with.
#[track_caller]
pub(crate) fn agree(
    reader: &Reader,
    came: &dyn Fn() -> String,
    sent: &Sent,
    seen: (Vec<Message<'_>>, Rest),
) {
    let (messages, rest) = seen;
    let same = |(message, meant): (&Message<'_>, &Meant)| {
        message.start == meant.start && message.body == meant.body
    };
    let counted = messages.len() == sent.messages.len();
    // Of a message that was begun and broken off, nobody may make a whole one.
    let rests = match sent.end {
        End::Open | End::Closed => rest == Rest::Nothing,
        End::Within | End::Refused => matches!(rest, Rest::Nothing | Rest::Part),
    };
    assert!(
        counted && rests && messages.iter().zip(&sent.messages).all(same),
        "\"{}\" disagrees\n   came: {}\n   sent: {}\n  meant: {} messages, {:?}\n\
         \x20  seen: {}, {rest:?}",
        reader.name,
        came(),
        sent.bytes.escape_ascii(),
        sent.messages.len(),
        sent.end,
        messages.iter().map(shown).collect::<Vec<_>>().join(" | "),
    );
}

fn shown(message: &Message<'_>) -> String {
    format!("{} + {}", message.start.escape_ascii(), message.body.escape_ascii())
}
