//! Masks: what people see of a column that they may not see.

use super::ColumnKind;
use counterfoil_records::value::Value;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// There is no such column.
    Drop,
    /// The last four characters of its text, with a `*` for each one before. Of a text of eight or fewer only the latter
    /// half is shown, so that never more than half of anything is.
    Last4,
    /// HMAC-SHA-256 of its text under a key, as 64 hexadecimal digits: equal values can be joined, none can be read.
    Hash(MaskKey),
    /// This text, whatever the value is.
    Fixed(String),
}

/// The key of a hash. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskKey(Arc<[u8]>);

impl MaskKey {
    /// A key of these bytes.
    pub fn new(bytes: &[u8]) -> MaskKey {
        MaskKey(bytes.into())
    }

    /// So many hexadecimal digits of a text's hash.
    fn hash(&self, text: &str) -> String {
        // A key may have any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        mac.update(text.as_bytes());
        let mut hex = String::with_capacity(64);
        for byte in mac.finalize().into_bytes() {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// What tells it from another key, and nothing of the key.
    pub(super) fn id(&self) -> String {
        self.hash("counterfoil mask key").split_off(48)
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(..)")
    }
}

impl Mask {
    /// What a column of this kind holds when it is masked; `None`: there is none.
    pub(super) fn kind(&self, kind: ColumnKind) -> Option<ColumnKind> {
        let chars = match self {
            Mask::Drop => return None,
            Mask::Last4 => kind.chars(),
            Mask::Hash(_) => Some(64),
            Mask::Fixed(text) => u32::try_from(text.chars().count()).ok().map(|n| n.max(1)),
        };
        Some(ColumnKind::Text { chars })
    }

    /// The masked value. Nothing stays nothing, but for a fixed text.
    pub(super) fn apply<'a>(&'a self, value: &Value<'_>, room: &'a mut String) -> Value<'a> {
        room.clear();
        match (self, value) {
            (Mask::Fixed(text), _) => return Value::Text(text),
            (Mask::Drop, _) | (_, Value::Null) => return Value::Null,
            (Mask::Last4, value) => {
                let text = value.to_string();
                let count = text.chars().count();
                let shown = (count / 2).min(4);
                room.extend(std::iter::repeat_n('*', count - shown));
                room.extend(text.chars().skip(count - shown));
            }
            (Mask::Hash(key), value) => room.push_str(&key.hash(&value.to_string())),
        }
        Value::Text(room)
    }

    /// What tells it from another mask.
    pub(super) fn id(&self) -> String {
        match self {
            Mask::Drop => "drop".into(),
            Mask::Last4 => "last4".into(),
            Mask::Hash(key) => format!("hash {}", key.id()),
            Mask::Fixed(text) => format!("fixed {text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: &Mask, value: Value<'_>) -> String {
        mask.apply(&value, &mut String::new()).to_string()
    }

    #[test]
    fn the_last_four_are_shown_and_never_more_than_half() {
        let last4 = |text| masked(&Mask::Last4, Value::Text(text));
        assert_eq!(last4("4000123412341234"), "************1234");
        assert_eq!(last4("12345678"), "****5678");
        assert_eq!(last4("1234"), "**34");
        assert_eq!(last4("1"), "*");
        assert_eq!(last4(""), "");
        assert_eq!(last4("Grüße an Öl"), "*******n Öl");
        assert_eq!(masked(&Mask::Last4, Value::Null), "");
    }

    #[test]
    fn a_hash_is_hmac_sha_256_and_depends_on_the_key() {
        // RFC 4231, test case 2.
        let mask = Mask::Hash(MaskKey::new(b"Jefe"));
        let hash = masked(&mask, Value::Text("what do ya want for nothing?"));
        assert_eq!(
            hash,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let other = Mask::Hash(MaskKey::new(b"jefe"));
        assert_ne!(mask.id(), other.id());
        assert!(!format!("{mask:?}").contains("Jefe"));
        assert_eq!(masked(&mask, Value::Null), "");
    }
}
