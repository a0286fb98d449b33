//! Code pages: which character a byte is.
//!
//! EBCDIC's five are tables (from glibc's iconv), in which every byte is a character and none is twice. Newlines are as IBM has
//! them for Unix: `15` is U+0085 (NEL), `25` is U+000A (LF); nothing is swapped.

use crate::schema::CodePage;

mod tables;

/// A table of EBCDIC and what is derived from it.
#[derive(Debug)]
pub(super) struct Ebcdic {
    /// Byte to character.
    pub(super) chars: [u16; 256],
    /// Byte to the ASCII character, or [`NOT_ASCII`].
    pub(super) ascii: [u8; 256],
    /// Character up to U+00FF to byte, where there is one; 0 else.
    bytes: [u8; 256],
}

/// In [`Ebcdic::ascii`]: a character beyond ASCII.
pub(super) const NOT_ASCII: u8 = 0x80;

impl Ebcdic {
    const fn new(chars: [u16; 256]) -> Ebcdic {
        let mut ascii = [NOT_ASCII; 256];
        let mut bytes = [0; 256];
        let mut at = 0;
        while at < 256 {
            let char = chars[at];
            if char < 0x80 {
                ascii[at] = char as u8;
            }
            if char < 0x100 {
                bytes[char as usize] = at as u8;
            }
            at += 1;
        }
        Ebcdic {
            chars,
            ascii,
            bytes,
        }
    }

    /// The byte of a character.
    pub(super) fn byte(&self, char: char) -> Option<u8> {
        let code = u16::try_from(u32::from(char)).ok()?;
        if let Some(&byte) = self.bytes.get(usize::from(code))
            && self.chars[usize::from(byte)] == code
        {
            return Some(byte);
        }
        let at = self.chars.iter().position(|&it| it == code)?;
        u8::try_from(at).ok()
    }
}

static CP037: Ebcdic = Ebcdic::new(tables::CP037);
static CP273: Ebcdic = Ebcdic::new(tables::CP273);
static CP500: Ebcdic = Ebcdic::new(tables::CP500);
static CP1047: Ebcdic = Ebcdic::new(tables::CP1047);
static CP1140: Ebcdic = Ebcdic::new(tables::CP1140);

/// The byte of a space.
pub fn space(page: CodePage) -> u8 {
    if page.is_ebcdic() { 0x40 } else { b' ' }
}

/// The table of a code page that has one: EBCDIC.
pub(super) fn table(page: CodePage) -> Option<&'static Ebcdic> {
    match page {
        CodePage::Ascii | CodePage::Utf8 | CodePage::Latin1 => None,
        CodePage::Cp037 => Some(&CP037),
        CodePage::Cp273 => Some(&CP273),
        CodePage::Cp500 => Some(&CP500),
        CodePage::Cp1047 => Some(&CP1047),
        CodePage::Cp1140 => Some(&CP1140),
    }
}
