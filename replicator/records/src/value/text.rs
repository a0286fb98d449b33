//! Text: bytes of a code page, padded behind with spaces.
//!
//! Spaces and zero bytes behind the text (of a field JUSTIFIED RIGHT: spaces before it) aren't part of it: COBOL pads with the former, C ends with the latter. Nothing else is
//! taken away, and a zero byte within stays (PostgreSQL's `text` can't hold one; that is for its sink to handle).

use super::code_page::{self, NOT_ASCII, space};
use super::{Misfit, Reason};
use crate::schema::{CodePage, Endian};

/// The bytes of a field without the padding behind its text.
#[inline]
pub fn trimmed(bytes: &[u8], space: u8) -> &[u8] {
    // Fields are mostly padding or mostly none: eight bytes at a time, then one by one.
    let mut end = bytes.len();
    let eight = u64::from_le_bytes([space; 8]);
    while let Some(last) = end
        .checked_sub(8)
        .and_then(|from| bytes[from..end].first_chunk::<8>())
    {
        if u64::from_le_bytes(*last) != eight {
            break;
        }
        end -= 8;
    }
    while end > 0 && (bytes[end - 1] == space || bytes[end - 1] == 0) {
        end -= 1;
    }
    &bytes[..end]
}

/// The text in the bytes of a field. `room` is for text that has to be put together; its content is lost.
#[inline]
pub fn decode<'a>(
    bytes: &'a [u8],
    page: CodePage,
    justified_right: bool,
    room: &'a mut String,
) -> Result<&'a str, Reason> {
    let text = if justified_right {
        let padding = bytes.iter().take_while(|&&byte| byte == space(page));
        &bytes[padding.count()..]
    } else {
        trimmed(bytes, space(page))
    };
    let Some(table) = code_page::table(page) else {
        return without_table(text, page, room);
    };
    let mut buffer = std::mem::take(room).into_bytes();
    // What is there already is written over: texts of one column have much the same length.
    buffer.resize(text.len(), 0);
    let mut beyond = 0;
    for (to, &from) in buffer.iter_mut().zip(text) {
        let char = table.ascii[usize::from(from)];
        beyond |= char;
        *to = char;
    }
    if beyond & NOT_ASCII != 0 {
        buffer.clear();
    }
    *room = String::from_utf8(buffer).unwrap_or_default();
    if beyond & NOT_ASCII != 0 {
        room.extend(
            text.iter()
                .filter_map(|&byte| char::from_u32(table.chars[usize::from(byte)].into())),
        );
    }
    Ok(room)
}

/// Text of a code page that has no table, without its padding.
fn without_table<'a>(
    text: &'a [u8],
    page: CodePage,
    room: &'a mut String,
) -> Result<&'a str, Reason> {
    let wrong = |at: usize| Reason::Character {
        at,
        byte: text.get(at).copied().unwrap_or_default(),
    };
    match page {
        CodePage::Latin1 if !text.is_ascii() => {
            room.clear();
            room.extend(text.iter().copied().map(char::from));
            Ok(room)
        }
        CodePage::Ascii if !text.is_ascii() => {
            let at = text.iter().position(|byte| !byte.is_ascii());
            Err(wrong(at.unwrap_or_default()))
        }
        _ => std::str::from_utf8(text).map_err(|error| wrong(error.valid_up_to())),
    }
}

/// The text in the bytes of a field in UTF-16.
pub fn decode_utf16<'a>(
    bytes: &[u8],
    endian: Endian,
    room: &'a mut String,
) -> Result<&'a str, Reason> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return Err(Reason::Width(bytes.len()));
    };
    room.clear();
    let mut at = 0;
    let units = units.iter().map(|unit| match endian {
        Endian::Big => u16::from_be_bytes(*unit),
        Endian::Little => u16::from_le_bytes(*unit),
    });
    for char in char::decode_utf16(units) {
        let char = char.map_err(|_| Reason::Character {
            at,
            byte: bytes.get(at).copied().unwrap_or_default(),
        })?;
        at += 2 * char.len_utf16();
        room.push(char);
    }
    let len = room.trim_end_matches([' ', '\0']).len();
    room.truncate(len);
    Ok(room)
}

/// Puts text into the bytes of a field, with spaces behind it (before it, if the field is justified right). On an error they
/// are as before.
pub fn encode(
    text: &str,
    page: CodePage,
    justified_right: bool,
    out: &mut [u8],
) -> Result<(), Misfit> {
    let mut room = Vec::new();
    let bytes = match (code_page::table(page), page) {
        (Some(table), _) => {
            for char in text.chars() {
                room.push(table.byte(char).ok_or(Misfit::Character(char))?);
            }
            &room
        }
        (None, CodePage::Latin1) => {
            for char in text.chars() {
                room.push(u8::try_from(char).map_err(|_| Misfit::Character(char))?);
            }
            &room
        }
        (None, CodePage::Ascii) if !text.is_ascii() => {
            let char = text.chars().find(|char| !char.is_ascii());
            return Err(Misfit::Character(char.unwrap_or_default()));
        }
        (None, _) => text.as_bytes(),
    };
    let (needed, len) = (bytes.len(), out.len());
    if needed > len {
        return Err(Misfit::Length { needed, len });
    }
    let begin = if justified_right { len - needed } else { 0 };
    out.fill(space(page));
    out[begin..begin + needed].copy_from_slice(bytes);
    Ok(())
}

/// Puts text into the bytes of a field in UTF-16, with spaces behind it. On an error they are as before.
pub fn encode_utf16(text: &str, endian: Endian, out: &mut [u8]) -> Result<(), Misfit> {
    let (needed, len) = (2 * text.encode_utf16().count(), out.len());
    let (places, []) = out.as_chunks_mut::<2>() else {
        return Err(Misfit::Width(len));
    };
    if needed > len {
        return Err(Misfit::Length { needed, len });
    }
    let units = text.encode_utf16().chain(std::iter::repeat(b' '.into()));
    for (place, unit) in places.iter_mut().zip(units) {
        *place = match endian {
            Endian::Big => unit.to_be_bytes(),
            Endian::Little => unit.to_le_bytes(),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], page: CodePage) -> Result<String, Reason> {
        decode(bytes, page, false, &mut String::from("left over")).map(str::to_owned)
    }

    fn read_utf16(bytes: &[u8]) -> Result<String, Reason> {
        decode_utf16(bytes, Endian::Big, &mut String::from("left over")).map(str::to_owned)
    }

    #[test]
    fn padding_is_no_text() {
        assert_eq!(read(b" a b  \0 \0", CodePage::Ascii), Ok(" a b".into()));
        assert_eq!(read(&[b' '; 21], CodePage::Ascii), Ok(String::new()));
        assert_eq!(read(b"a               \0", CodePage::Utf8), Ok("a".into()));
        assert_eq!(
            read(&[0xC1, 0x40, 0xC2, 0x40, 0x40], CodePage::Cp037),
            Ok("A B".into())
        );
        assert_eq!(read_utf16(b"\0A\0 \0 "), Ok("A".into()));
    }

    #[test]
    fn characters_beyond_ascii() {
        assert_eq!(read(&[0x4A, 0xC1], CodePage::Cp273), Ok("ÄA".into()));
        assert_eq!(read(&[0x9F], CodePage::Cp1140), Ok("€".into()));
        assert_eq!(read(&[0xE9], CodePage::Latin1), Ok("é".into()));
        assert_eq!(read("é".as_bytes(), CodePage::Utf8), Ok("é".into()));
        let wrong = |at, byte| Err(Reason::Character { at, byte });
        assert_eq!(read(b"ab\xE9 ", CodePage::Ascii), wrong(2, 0xE9));
        assert_eq!(read(b"ab\xE9 ", CodePage::Utf8), wrong(2, 0xE9));
        assert_eq!(read_utf16(b"\0a\xD8\x00\0b"), wrong(2, 0xD8));
        assert_eq!(read_utf16(b"abc"), Err(Reason::Width(3)));
        let mut out = [7; 3];
        for (text, page, misfit) in [
            (
                "abcd",
                CodePage::Ascii,
                Misfit::Length { needed: 4, len: 3 },
            ),
            ("é", CodePage::Ascii, Misfit::Character('é')),
            ("€", CodePage::Cp037, Misfit::Character('€')),
            ("€", CodePage::Latin1, Misfit::Character('€')),
            ("éé", CodePage::Utf8, Misfit::Length { needed: 4, len: 3 }),
        ] {
            assert_eq!(encode(text, page, false, &mut out), Err(misfit));
        }
        assert_eq!(out, [7; 3]);
        encode("a", CodePage::Cp500, true, &mut out).expect("it fits");
        assert_eq!(out, [0x40, 0x40, 0x81]);
    }

    #[test]
    fn newlines_are_not_swapped() {
        for page in CodePage::ALL.into_iter().filter(|page| page.is_ebcdic()) {
            assert_eq!(read(&[0x15, 0x25, 0x81], page), Ok("\u{85}\na".into()));
        }
    }

    #[test]
    fn every_byte_of_every_table_is_one_character() {
        for page in CodePage::ALL.into_iter().filter(|page| page.is_ebcdic()) {
            for byte in 1..=255_u8 {
                // With something behind it, so that it isn't padding.
                let bytes = [byte, 0x81];
                let text = read(&bytes, page).expect("every byte is a character");
                let mut out = [0; 2];
                encode(&text, page, false, &mut out).expect("it came from there");
                assert_eq!(out, bytes, "{page:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..40), which in 0_usize..8, right: bool) {
            let page = CodePage::ALL[which];
            let read = |bytes: &[u8]| decode(bytes, page, right, &mut String::new()).map(str::to_owned);
            if let Ok(text) = read(&bytes) {
                let mut out = vec![0; bytes.len()];
                prop_assert_eq!(encode(&text, page, right, &mut out), Ok(()));
                prop_assert_eq!(read(&out), Ok(text));
            }
        }

        #[test]
        fn text_of_two_bytes_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..40), little: bool) {
            let endian = if little { Endian::Little } else { Endian::Big };
            let read = |bytes: &[u8]| decode_utf16(bytes, endian, &mut String::new()).map(str::to_owned);
            if let Ok(text) = read(&bytes) {
                let mut out = vec![0; bytes.len()];
                prop_assert_eq!(encode_utf16(&text, endian, &mut out), Ok(()));
                prop_assert_eq!(read(&out), Ok(text));
            }
        }

        #[test]
        fn trimming_takes_spaces_and_zeros(text in "[a \0]{0,30}") {
            prop_assert_eq!(trimmed(text.as_bytes(), b' '), text.trim_end_matches([' ', '\0']).as_bytes());
        }
    }
}
