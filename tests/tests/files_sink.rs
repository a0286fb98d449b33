//! The files themselves as the target: what programs write is in the mirror byte for byte, whatever is killed on the way, and
//! the programs run on the mirror. All comparisons are of the bytes, by the tests themselves.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{
    Chance, Group, Process, Shape, Site, assert_same_trees, c, cobol, pay, rounds, script, tree,
    wait_until,
};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A site with one sink: files below `mirror`.
fn site(name: &str, groups: &[Group]) -> Result<Site> {
    let site = Site::new(name)?;
    let text = site.config_text(groups);
    let root = site.root().join("mirror");
    site.configure_text(&format!(
        "{text}\n[[sink]]\nname = \"standby\"\nfiles = {{ root = {root:?} }}\n"
    ))?;
    Ok(site)
}

/// Where what is in the site's data directory is mirrored to.
fn mirror(site: &Site) -> PathBuf {
    let data = site.data();
    let below = data.strip_prefix("/").unwrap_or(&data);
    site.root().join("mirror").join(below)
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?
    {
        names.insert(entry?.file_name());
    }
    Ok(names)
}

/// Every one of these files is in the mirror with the same bytes if it is there at all, and nothing else is.
fn assert_same(site: &Site, files: &[&str]) -> Result<()> {
    let mirror = mirror(site);
    for name in files {
        let original = fs::read(site.path(name)).ok();
        let mirrored = fs::read(mirror.join(name)).ok();
        ensure!(
            original == mirrored,
            "{name} differs: {:?} bytes, in the mirror {:?} (see {})",
            original.map(|bytes| bytes.len()),
            mirrored.map(|bytes| bytes.len()),
            site.root().display()
        );
    }
    let expected: BTreeSet<OsString> = files
        .iter()
        .filter(|name| site.path(name).exists())
        .map(OsString::from)
        .collect();
    let found = if mirror.exists() {
        names(&mirror)?
    } else {
        BTreeSet::new()
    };
    ensure!(
        found == expected,
        "the mirror has {found:?}, not {expected:?}"
    );
    Ok(())
}

const SWITCH: [&str; 4] = ["cards.dat", "accounts.dat", "journal.dat", "switch.log"];

fn assert_switch_mirrored(site: &Site) -> Result<()> {
    site.settle()?;
    assert_same(site, &SWITCH)?;
    let verdict = site.verify()?;
    ensure!(verdict.equal, "verify finds {:?}", verdict.differences);
    Ok(())
}

#[test]
fn a_cobol_program_goes_on_on_the_mirror() -> Result<()> {
    let site = site("files-cobol", &[Group::card_switch()])?;
    let checked = site.run(&["check"])?;
    ensure!(
        checked.stdout.contains("files will be mirrored there"),
        "check says: {}{}",
        checked.stdout,
        checked.stderr
    );
    let switch = cobol("card_switch")?;
    pay(&site, &switch, "300", "1")?;
    assert_switch_mirrored(&site)?;
    site.restore_and_compare()?;
    pay(&site, &switch, "100", "2")?;
    assert_switch_mirrored(&site)?;

    // Somebody changes a byte: verify names the record.
    let path = mirror(&site).join("accounts.dat");
    let accounts = File::options().read(true).write(true).open(&path)?;
    let mut byte = [0];
    accounts.read_exact_at(&mut byte, 302)?;
    accounts.write_all_at(&[byte[0] ^ 1], 302)?;
    let verdict = site.verify()?;
    ensure!(!verdict.equal, "verify saw nothing");
    let wrong = &verdict.differences[0];
    ensure!(
        wrong.path.ends_with("accounts.dat") && wrong.record == Some(2),
        "verify names {wrong:?}"
    );
    accounts.write_all_at(&byte, 302)?;

    // The standby takes over: the same program reads what the first one wrote, and goes on.
    let auditor = c("card_switch")?;
    let place = mirror(&site);
    let before = fs::metadata(place.join("journal.dat"))?.len();
    let audit = ["--audit".as_ref(), place.as_os_str()];
    site.uncaptured(&auditor, &audit)
        .context("auditing the mirror")?;
    let arguments = ["--cards", "60", "--payments", "50", "--seed", "3"].map(OsString::from);
    let mut words = vec![place.clone().into_os_string()];
    words.extend(arguments);
    site.uncaptured(&switch, &words)
        .context("running the COBOL program on the mirror")?;
    site.uncaptured(&auditor, &audit)
        .context("auditing the mirror after it went on there")?;
    ensure!(fs::metadata(place.join("journal.dat"))?.len() > before);
    site.finish();
    Ok(())
}

#[test]
fn killing_the_replicator_again_and_again_leaves_the_same_bytes() -> Result<()> {
    let site = site("files-kills", &[Group::card_switch()])?;
    let mut chance = Chance::new(Chance::seed());
    let switch = c("card_switch")?;
    let mut program: Option<Process> = None;
    for round in 1..=rounds(12) {
        let mut replicator = site.replicator()?;
        if program.is_none() {
            let seed = (1 + chance.below(100_000)).to_string();
            let arguments = [".", "--cards", "60", "--rate", "2000", "--seed", &seed];
            program = Some(site.exec(&switch, &arguments)?);
        }
        let moment = Instant::now() + Duration::from_micros(chance.below(300_000));
        wait_until("the moment to strike", || {
            (Instant::now() >= moment)
                .then_some(())
                .ok_or_else(|| "early".to_owned())
        })?;
        ensure!(
            replicator.is_running()?,
            "round {round}: it had ended by itself: {}",
            replicator.stderr()
        );
        replicator.kill()?;
        if round % 4 == 0 {
            if let Some(mut program) = program.take() {
                program.kill()?;
            }
            assert_switch_mirrored(&site).with_context(|| format!("after round {round}"))?;
        }
    }
    drop(program);
    pay(&site, &switch, "50", "7")?;
    assert_switch_mirrored(&site)?;
    let place = mirror(&site);
    site.uncaptured(&c("card_switch")?, &["--audit".as_ref(), place.as_os_str()])
        .context("auditing the mirror")?;
    site.finish();
    Ok(())
}

/// Random operations, renames, truncations and removals among them, on files of each shape.
#[test]
fn whatever_is_done_to_files_of_any_shape_the_bytes_are_the_same() -> Result<()> {
    const NAMES: [&str; 2] = ["a.dat", "b.dat"];
    let seed = Chance::seed();
    let exerciser = c("file_exerciser")?;
    let shapes = [
        Shape::Fixed { size: 100 },
        Shape::Relative { size: 60 },
        Shape::Variable {
            size: 120,
            varseq_format: 0,
        },
        Shape::Variable {
            size: 120,
            varseq_format: 3,
        },
        Shape::Lines,
    ];
    for (round, shape) in shapes.into_iter().enumerate() {
        let mut chance = Chance::new(seed.wrapping_add(round as u64));
        let (text, model) = script(shape, &NAMES, "outside.tmp", 250, &mut chance);
        let units = *chance.pick(&["none", "close"]);
        let site = site(
            "files-random",
            &[Group::new("group", units).file("*.dat", shape)],
        )?;
        fs::write(site.path("script"), text)?;
        let context = || format!("seed {seed}, {shape:?}, units {units}");
        let mut replicator = site.replicator()?;
        site.exec_to_end(&exerciser, &["script"])
            .with_context(context)?;
        if chance.percent(50) {
            replicator.kill()?;
        } else {
            site.stop(replicator)?;
        }
        site.settle().with_context(context)?;
        assert_same(&site, &NAMES).with_context(context)?;
        for name in NAMES {
            let mirrored = fs::read(mirror(&site).join(name)).ok();
            ensure!(
                mirrored.as_deref() == model.file(name),
                "{name} isn't what the model says; {}",
                context()
            );
        }
        site.assert_mirrored().with_context(context)?;
        site.finish();
    }
    Ok(())
}

#[test]
fn a_tree_is_the_same_with_its_links_and_modes() -> Result<()> {
    let site = site(
        "files-tree",
        &[Group::new("settings", "none").tree("etc", "")],
    )?;
    let root = site.path("etc");
    let assert_same_tree = || -> Result<()> {
        site.settle()?;
        let ours = tree(&root, &|_| false)?;
        assert_same_trees(&ours, &tree(&mirror(&site).join("etc"), &|_| false)?)?;
        let verdict = site.verify()?;
        ensure!(verdict.equal, "verify finds {:?}", verdict.differences);
        Ok(())
    };
    fs::create_dir_all(root.join("conf.d/deep/er"))?;
    fs::write(root.join("app.conf"), "port = 80\n")?;
    fs::write(root.join("conf.d/10-a"), "a")?;
    fs::write(root.join("conf.d/deep/x"), vec![7; 3 * 256 * 1024 + 11])?;
    fs::write(root.join("empty"), "")?;
    symlink("app.conf", root.join("link"))?;
    symlink("/nowhere/\u{e9}", root.join("dangling"))?;
    fs::set_permissions(root.join("conf.d"), Permissions::from_mode(0o2750))?;
    fs::set_permissions(root.join("empty"), Permissions::from_mode(0o4711))?;
    fs::set_permissions(root.join("conf.d/deep/x"), Permissions::from_mode(0o400))?;
    File::open(root.join("conf.d/10-a"))?
        .set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789))?;
    assert_same_tree()?;

    fs::write(root.join("app.conf.new"), "port = 443\n")?;
    fs::rename(root.join("app.conf.new"), root.join("app.conf"))?;
    fs::rename(root.join("conf.d"), root.join("conf.d.old"))?;
    fs::create_dir(root.join("conf.d"))?;
    fs::write(root.join("conf.d/10-a"), "another a")?;
    fs::remove_file(root.join("link"))?;
    symlink("conf.d", root.join("link"))?;
    fs::remove_file(root.join("empty"))?;
    fs::create_dir(root.join("empty"))?;
    fs::remove_dir(root.join("conf.d.old/deep/er"))?;
    File::options()
        .write(true)
        .open(root.join("conf.d.old/deep/x"))
        .or_else(|_| File::open(root.join("conf.d.old/deep/x")))?
        .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(77))?;
    File::open(&root)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5))?;
    assert_same_tree()?;

    // Beside a running replicator: names that trade places, directories that become files.
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    fs::rename(root.join("app.conf"), root.join("hand"))?;
    fs::rename(root.join("conf.d/10-a"), root.join("app.conf"))?;
    fs::rename(root.join("hand"), root.join("conf.d/10-a"))?;
    fs::remove_dir_all(root.join("conf.d.old"))?;
    fs::write(root.join("conf.d.old"), "a file now")?;
    wait_until("the mirror to follow", || {
        match fs::read(mirror(&site).join("etc/conf.d.old")) {
            Ok(content) if content == b"a file now" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    replicator.kill()?;
    fs::remove_file(root.join("dangling"))?;
    assert_same_tree()?;
    site.finish();
    Ok(())
}

#[test]
fn a_root_within_what_is_captured_is_refused() -> Result<()> {
    let site = Site::new("files-refused")?;
    let text = site.config_text(&[Group::card_switch()]);
    for (sink, expected) in [
        (
            "files = { root = \"/\" }",
            "takes in what a sink mirrors files to",
        ),
        ("files = { root = \"\" }", "isn't a path"),
        ("files = { root = \"/m\", attribute = true }", "attribute"),
        (
            "raw = false\nfiles = { root = \"/m\" }",
            "no tables and columns",
        ),
    ] {
        site.configure_text(&format!("{text}\n[[sink]]\nname = \"x\"\n{sink}\n"))?;
        let checked = site.run(&["check"])?;
        let said = format!("{}{}", checked.stdout, checked.stderr);
        ensure!(
            said.contains(expected) && !checked.status.success(),
            "{sink}: check says {said}"
        );
    }
    // A sink that only applies what others capture may have the root itself.
    site.finish();
    Ok(())
}
