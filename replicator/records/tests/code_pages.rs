//! The tables of EBCDIC are those of the system's `iconv`, which has its own copy of the standard.

use counterfoil_records::schema::CodePage;
use counterfoil_records::value::text;
use std::io::Write as _;
use std::process::{Command, Stdio};

#[test]
fn code_pages_are_those_of_iconv() {
    for (page, name) in [
        (CodePage::Cp037, "IBM037"),
        (CodePage::Cp273, "IBM273"),
        (CodePage::Cp500, "IBM500"),
        (CodePage::Cp1047, "IBM1047"),
        (CodePage::Cp1140, "IBM1140"),
        (CodePage::Latin1, "ISO-8859-1"),
    ] {
        // A letter at the end, so that neither spaces nor zero bytes before it are padding.
        let letter = if page.is_ebcdic() { 0xC1 } else { b'A' };
        let bytes: Vec<u8> = (0..=255).chain([letter]).collect();
        let mut iconv = Command::new("iconv")
            .args(["-f", name, "-t", "UTF-8"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("iconv is there (Debian: libc-bin)");
        let mut stdin = iconv.stdin.take().expect("it was asked for");
        stdin.write_all(&bytes).expect("iconv reads");
        drop(stdin);
        let output = iconv.wait_with_output().expect("iconv ends");
        assert!(output.status.success(), "iconv knows {name}");
        let expected = String::from_utf8(output.stdout).expect("iconv writes UTF-8");
        let mut room = String::new();
        let text = text::decode(&bytes, page, false, &mut room).expect("every byte is a character");
        assert_eq!(text, expected, "{name}");
    }
}
