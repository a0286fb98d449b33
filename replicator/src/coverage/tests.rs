use super::*;

fn temporary(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

#[test]
fn lines_of_maps_are_taken_apart_and_only_those_of_files_count() {
    let maps =
        b"55d0c0000000-55d0c0001000 r-xp 00001000 fd:01 1234                       /usr/bin/a b\n\
        7f0000000000-7f0000001000 rw-s 00000000 103:02 77 /srv/x\\012y.dat\n\
        7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n\
        7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n\
        7f0000004000-7f0000005000 r--s 00000000 fd:01 9 /srv/z.dat\n\
        cut off";
    let found: Vec<Mapping<'_>> = proc::mappings(maps).collect();
    let expected = [
        (false, (0xfd, 1), 1234, b"/usr/bin/a b".as_slice()),
        (true, (0x103, 2), 77, b"/srv/x\\012y.dat"),
        (false, (0xfd, 1), 9, b"/srv/z.dat"),
    ];
    let expected = expected.map(|(is_shared_writable, device, inode, path)| Mapping {
        is_shared_writable,
        device,
        inode,
        path,
    });
    assert_eq!(found, expected);
}

#[test]
fn variables_are_found_by_their_whole_name() {
    let environ = b"XLD_PRELOAD=/no\0LD_PRELOAD_X=/no\0LD_PRELOAD=/a=b\0EMPTY=\0";
    assert_eq!(proc::variable(environ, b"LD_PRELOAD"), Some(&b"/a=b"[..]));
    assert_eq!(proc::variable(environ, b"EMPTY"), Some(&b""[..]));
    assert_eq!(proc::variable(environ, b"PRELOAD"), None);
}

#[test]
fn an_auxiliary_vector_says_whether_the_loader_heeds_the_environment() {
    let auxv = |secure: u64| -> Vec<u8> {
        [6, 4096, 23, secure, 0, 0]
            .iter()
            .flat_map(|word: &u64| word.to_le().to_le_bytes())
            .collect()
    };
    assert!(proc::is_secure(&auxv(1)));
    assert!(!proc::is_secure(&auxv(0)));
    assert!(!proc::is_secure(&auxv(1)[..24]));
    assert!(!proc::is_secure(&fs::read("/proc/self/auxv").unwrap()));
}

#[test]
fn the_start_of_this_process_is_in_the_past_and_not_long_ago() {
    let started = start_of(std::process::id()).unwrap();
    let ago = counterfoil_lane::clock::wall() - proc::started_wall_ns(started).unwrap();
    // A tick is ten milliseconds.
    assert!(ago > -20_000_000, "{ago}");
    let first = proc::started_wall_ns(start_of(1).unwrap()).unwrap();
    assert!(proc::started_wall_ns(started).unwrap() >= first);
}

#[test]
fn executables_say_what_loads_them() {
    let own = File::open("/proc/self/exe").unwrap();
    let elf = Elf::read(&own).unwrap().unwrap();
    assert!(
        matches!(&elf, Elf::Native { loader: Some(loader) } if loader.contains("ld-")),
        "{elf:?}"
    );
    assert_eq!(why_not_loadable(&elf, Path::new("/bin/x")), None);
    // The same file, made to be for others, and cut off anywhere.
    let bytes = fs::read("/proc/self/exe").unwrap();
    let read = |bytes: &[u8]| {
        let (_directory, path) = temporary("program", bytes);
        Elf::read(&File::open(path).unwrap()).unwrap()
    };
    let begin = &bytes[..4096];
    let mut other = begin.to_vec();
    other[4] = 1;
    assert_eq!(read(&other), Some(Elf::Foreign { bits: 32 }));
    other[4] = 2;
    other[18] ^= 1;
    assert_eq!(read(&other), Some(Elf::Foreign { bits: 64 }));
    for len in [0, 4, 63, 64, 100] {
        assert_eq!(read(&begin[..len]), None, "{len} bytes");
    }
    assert_eq!(
        read(b"#!/bin/sh\nexec true, and more bytes than a header of an ELF file has\n"),
        None
    );
}

#[test]
fn what_loads_a_program_decides_whether_anything_can_be_preloaded() {
    let why = |loader: Option<&str>, executable: &str| {
        let loader = loader.map(str::to_owned);
        why_not_loadable(&Elf::Native { loader }, Path::new(executable))
    };
    assert_eq!(why(Some("/lib64/ld-linux-x86-64.so.2"), "/a"), None);
    assert_eq!(why(Some("/lib/ld-linux-aarch64.so.1"), "/a"), None);
    let musl = "/lib/ld-musl-x86_64.so.1";
    assert_eq!(why(Some(musl), "/a"), Some(Why::OtherLibc(musl.to_owned())));
    assert_eq!(why(None, "/a"), Some(Why::Static));
    // `ld.so ./program`, run by hand.
    assert_eq!(why(None, "/lib64/ld-linux-x86-64.so.2"), None);
}

#[test]
fn the_first_line_of_a_script_names_its_interpreter() {
    let of = |text: &str| elf::interpreter(text.as_bytes());
    assert_eq!(of("#!/bin/sh\nx"), Some("/bin/sh".into()));
    assert_eq!(of("#! /usr/bin/env python3\n"), Some("/usr/bin/env".into()));
    assert_eq!(of("#!/bin/sh"), Some("/bin/sh".into()));
    assert_eq!(of("#!\n/bin/sh"), None);
    assert_eq!(of("/bin/sh"), None);
}

#[test]
fn a_program_with_the_rights_of_its_own_user_is_no_obstacle() {
    assert_eq!(obstacle(OsStr::new("sh")), None);
    assert_eq!(obstacle(OsStr::new("/no/such/program")), None);
    let (_directory, script) = temporary("script", b"#!/bin/sh\ntrue\n");
    assert_eq!(obstacle(script.as_os_str()), None);
    // A script that is its own interpreter, as nothing can run it.
    let line = format!("#!{}\n", script.display());
    fs::write(&script, line).unwrap();
    assert_eq!(obstacle(script.as_os_str()), None);
}

#[test]
fn names_of_files_are_looked_at_and_not_their_directories() {
    assert!(file_name_contains(
        b"/opt/libcounterfoil_interposer.so.2",
        LIBRARY
    ));
    assert!(!file_name_contains(
        b"/opt/counterfoil_interposer/libother.so",
        LIBRARY
    ));
    assert_eq!(
        split_file_name(b"/a/b/board"),
        (&b"/a/b"[..], &b"board"[..])
    );
}

#[test]
fn files_are_told_in_few_words() {
    let file = |path: &str, is_mapping| OpenFile {
        path: path.to_owned(),
        is_mapping,
    };
    let mut program = Program {
        pid: 1,
        started: 1,
        name: String::new(),
        executable: String::new(),
        uid: 0,
        files: vec![file("/a", true)],
        files_more: 0,
        uncaptured: None,
    };
    assert_eq!(program.files_text(), "/a (mapped)");
    program.files.push(file("/b", false));
    assert_eq!(program.files_text(), "/a (mapped) and another file");
    program.files_more = 5;
    assert_eq!(program.files_text(), "/a (mapped) and 6 more files");
}
