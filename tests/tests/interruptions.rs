//! What happens while the replicator isn't there, or is killed in the middle of something long: loads, refills, renames,
//! gaps, files with holes. Everything ends with `verify` finding nothing and a restore that is byte-identical.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Chance, Group, Process, Program, Shape, Site, rounds, wait_until};
use std::time::{Duration, Instant};

/// A program of a few lines.
fn python(text: &str) -> Program {
    Program {
        words: vec!["/usr/bin/python3".into(), "-c".into(), text.into()],
    }
}

fn pass(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    wait_until("the moment", || {
        if Instant::now() >= until {
            Ok(())
        } else {
            Err("early".to_owned())
        }
    })
}

fn random_while(chance: &mut Chance, limit_ms: u64) -> Result<()> {
    pass(Duration::from_micros(chance.below(limit_ms * 1000)))
}

/// Starts a replicator and kills it after a random while, again and again, as long as the program runs (or `count` times).
fn come_and_go(
    site: &Site,
    chance: &mut Chance,
    program: Option<&mut Process>,
    count: usize,
    limit_ms: u64,
) -> Result<()> {
    let mut program = program;
    for _ in 0..count {
        if let Some(program) = program.as_deref_mut()
            && !program.is_running()?
        {
            break;
        }
        let mut replicator = site.replicator()?;
        random_while(chance, limit_ms)?;
        anyhow::ensure!(replicator.is_running()?, "{}", replicator.stderr());
        replicator.kill()?;
        random_while(chance, 30)?;
    }
    Ok(())
}

const LINES: Shape = Shape::Lines;
const RECORDS: Shape = Shape::Fixed { size: 100 };

#[test]
fn a_replicator_killed_while_it_loads_a_large_file_loads_it_the_next_time() -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    for round in 0..rounds(1) {
        let site = Site::with(
            "load",
            &[Group::new("group", "none")
                .file("large.dat", Shape::Fixed { size: 1000 })
                .file("large.txt", LINES)],
        )?;
        std::fs::write(site.path("large.dat"), chance.bytes(20_000_500))?;
        let line = [chance.text(199), b"\n".to_vec()].concat();
        std::fs::write(site.path("large.txt"), line.repeat(50_000))?;
        come_and_go(&site, &mut chance, None, 4, 1500)?;
        site.assert_mirrored()
            .with_context(|| format!("round {round}"))?;
        site.finish();
    }
    Ok(())
}

#[test]
fn a_file_made_since_the_last_checkpoint_and_removed_while_the_replicator_was_down_is_gone()
-> Result<()> {
    for shape in [RECORDS, LINES] {
        let site = Site::with("gone", &[Group::new("group", "none").file("*.dat", shape)])?;
        site.exec_to_end(
            &python("open('a.dat','wb').write(b'a'*99+b'\\n')"),
            &[""; 0],
        )?;
        site.settle()?;
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        site.exec_to_end(
            &python("open('b.dat','wb').write((b'b'*99+b'\\n')*300)"),
            &[""; 0],
        )?;
        wait_until("its rows", || match site.rows("b_dat") {
            Ok(rows) if rows.len() == 300 => Ok(()),
            other => Err(format!("{:?}", other.map(|rows| rows.len()))),
        })?;
        replicator.kill()?;
        std::fs::remove_file(site.path("b.dat"))?;
        site.assert_mirrored()?;
        anyhow::ensure!(!site.tables()?.contains(&"b_dat".to_owned()));
        site.finish();
    }
    Ok(())
}

#[test]
fn a_refill_that_is_killed_again_and_again_ends_in_equality() -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    for round in 0..rounds(4) {
        let site = Site::with(
            "refill",
            &[Group::new("group", "none")
                .file("*.dat", RECORDS)
                .file("*.txt", LINES)],
        )?;
        let line = [chance.text(99), b"\n".to_vec()].concat();
        for name in ["a.dat", "b.dat", "c.dat", "a.txt", "b.txt"] {
            std::fs::write(site.path(name), line.repeat(20_000))?;
        }
        site.settle()?;
        for what in [&["images"][..], &["journal"], &["journal", "images"]] {
            for name in what {
                std::fs::remove_dir_all(site.state().join(name))?;
            }
            // Less than before in one file, other content in one, and one is gone.
            let len = 100 * chance.below(1000);
            std::fs::File::options()
                .write(true)
                .open(site.path("a.txt"))?
                .set_len(len)?;
            let other = [chance.text(59), b"\n".to_vec()].concat();
            std::fs::write(site.path("b.dat"), other.repeat(3000))?;
            let _ = std::fs::remove_file(site.path("c.dat"));
            come_and_go(&site, &mut chance, None, 3, 700)?;
            std::fs::write(site.path("c.dat"), &line)?;
            site.assert_mirrored()
                .with_context(|| format!("round {round}, without {what:?}"))?;
        }
        site.finish();
    }
    Ok(())
}

const RENAMES: &str = r#"
import os, random, sys, time, ctypes
random.seed(int(sys.argv[1])); count = int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
names = ['a.dat', 'b.dat', 'c.dat', 'd.dat', 'x.tmp', 'other/a.dat', 'other/b.dat']
fds = []
line = lambda: (b'%08d' % random.randrange(10**8)) * 12 + b'xyz\n'
for turn in range(count):
    one, two = random.sample(names, 2)
    what = random.random()
    try:
        if what < 0.30: os.rename(one, two)
        elif what < 0.40: libc.renameat2(-100, one.encode(), -100, two.encode(), 2)
        elif what < 0.45: os.unlink(one)
        elif what < 0.60:
            fd = os.open(one, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if random.random() < .5 else 0))
            fds.append(fd); os.write(fd, line() * random.randrange(1, 5))
            if len(fds) > 6: os.close(fds.pop(random.randrange(len(fds))))
        elif what < 0.65:
            with open('tmp', 'wb') as f: f.write(line() * random.randrange(8))
            os.rename('tmp', one)
        elif what < 0.68: os.truncate(one, random.randrange(800))
        elif fds: os.write(random.choice(fds), line())
    except FileNotFoundError: pass
    if turn % 20 == 0: time.sleep(random.random() / 200)
"#;

fn renames(name: &str, unit_of_work: &str, live: bool) -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    for round in 0..rounds(4) {
        let site = Site::with(
            name,
            &[
                Group::new("group", unit_of_work)
                    .file("a.dat", RECORDS)
                    .file("?.dat", LINES),
                Group::new("other", "none").file("other/*.dat", RECORDS),
            ],
        )?;
        std::fs::create_dir(site.path("other"))?;
        let seed = chance.below(1_000_000).to_string();
        let mut program = site.exec(&python(RENAMES), &[&seed, "3000"])?;
        if live {
            let replicator = site.replicator()?;
            program.finish()?.success()?;
            site.stop(replicator)?;
        } else {
            come_and_go(&site, &mut chance, Some(&mut program), 100, 300)?;
            if chance.percent(50) {
                program.finish()?.success()?;
            } else {
                program.kill()?;
            }
        }
        site.assert_mirrored()
            .with_context(|| format!("round {round}, {seed}, {}", site.root().display()))?;
        site.finish();
    }
    Ok(())
}

#[test]
fn renames_unlinks_and_exchanges_are_mirrored() -> Result<()> {
    renames("renames", "none", true)
}

#[test]
fn renames_unlinks_and_exchanges_are_mirrored_while_the_replicator_is_killed() -> Result<()> {
    renames("renames-killed", "none", false)?;
    renames("renames-killed-close", "close", false)
}

const APPEND: &str = r#"
import os, sys, time
fd = os.open('log.dat', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for turn in range(int(sys.argv[2])):
    os.write(fd, (sys.argv[1] + ' %d ' % turn).encode().ljust(99, b'.') + b'\n')
    if turn % 50 == 0: time.sleep(.002)
"#;

#[test]
fn programs_that_append_to_one_file_are_mirrored_while_the_replicator_comes_and_goes() -> Result<()>
{
    let mut chance = Chance::new(Chance::seed());
    for shape in [RECORDS, LINES] {
        for round in 0..rounds(2) {
            let site = Site::with(
                "append",
                &[Group::new("group", "none").file("log.dat", shape)],
            )?;
            let mut programs = Vec::new();
            for program in ["a", "b", "c"] {
                programs.push(site.exec(&python(APPEND), &[program, "20000"])?);
            }
            come_and_go(&site, &mut chance, programs.first_mut(), 100, 300)?;
            for program in programs {
                program.finish()?.success()?;
            }
            site.assert_mirrored()
                .with_context(|| format!("round {round}, {}", site.root().display()))?;
            site.finish();
        }
    }
    Ok(())
}

#[test]
fn lanes_that_are_too_small_lose_nothing_for_good() -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    for round in 0..rounds(2) {
        let site = Site::new("gaps")?;
        let groups = [
            Group::new("group", "none").file("?.dat", LINES),
            Group::new("other", "none").file("other/*.dat", RECORDS),
            Group::new("log", "lock").file("log.dat", LINES),
        ];
        let text =
            site.config_text(&groups)
                .replacen("state =", "lane_bytes_max = 1048576\nstate =", 1);
        site.configure_text(&text)?;
        std::fs::create_dir(site.path("other"))?;
        let seed = chance.below(1_000_000).to_string();
        let append = site.exec(&python(APPEND), &["a", "30000"])?;
        let renames = site.exec(&python(RENAMES), &[&seed, "30000"])?;
        if chance.percent(50) {
            let mut replicator = site.replicator()?;
            random_while(&mut chance, 1000)?;
            replicator.kill()?;
        }
        let replicator = if chance.percent(70) {
            random_while(&mut chance, 1500)?;
            Some(site.replicator()?)
        } else {
            None
        };
        append.finish()?.success()?;
        renames.finish()?.success()?;
        if let Some(replicator) = replicator {
            site.stop(replicator)?;
        }
        site.assert_mirrored()
            .with_context(|| format!("round {round}, {seed}, {}", site.root().display()))?;
        site.finish();
    }
    Ok(())
}

/// Stopped for longer than a call may hold others back, at whatever it was doing, with another writer of the same file.
#[test]
fn a_program_stopped_for_a_while_and_continued_ends_in_equality() -> Result<()> {
    let mut chance = Chance::new(Chance::seed());
    let write = "
import os, random, sys
random.seed(int(sys.argv[1]))
fd = os.open('log.dat', os.O_RDWR | os.O_CREAT)
for turn in range(40000):
    os.pwrite(fd, (b'%s %d ' % (sys.argv[1].encode(), turn)).ljust(99, b'.') + b'\\n', random.randrange(40) * 100)
";
    for round in 0..rounds(1) {
        let site = Site::with(
            "stopped-and-continued",
            &[Group::new("group", "none").file("log.dat", RECORDS)],
        )?;
        let replicator = site.replicator()?;
        let one = site.exec(&python(write), &["1"])?;
        let two = site.exec(&python(write), &["2"])?;
        for _ in 0..3 {
            pass(Duration::from_millis(50 + chance.below(200)))?;
            // SAFETY: the id is that of a child that hasn't been waited for.
            unsafe { libc::kill(one.id().cast_signed(), libc::SIGSTOP) };
            pass(Duration::from_millis(1300))?;
            // SAFETY: as above.
            unsafe { libc::kill(one.id().cast_signed(), libc::SIGCONT) };
        }
        one.finish()?.success()?;
        two.finish()?.success()?;
        site.stop(replicator)?;
        site.assert_mirrored()
            .with_context(|| format!("round {round}, {}", site.root().display()))?;
        site.finish();
    }
    Ok(())
}

#[test]
fn writes_far_behind_the_end_are_mirrored_in_every_organisation() -> Result<()> {
    for (name, shape) in [
        ("fixed", RECORDS),
        ("relative", Shape::Relative { size: 92 }),
        ("blocks", Shape::Blocks { size: 4096 }),
        (
            "variable",
            Shape::Variable {
                size: 200,
                varseq_format: 0,
            },
        ),
        ("lines", LINES),
    ] {
        let site = Site::with(
            &format!("sparse-{name}"),
            &[Group::new("group", "none").file("sparse.dat", shape)],
        )?;
        let replicator = site.replicator()?;
        let far: u64 = 8 << 20;
        site.exec_to_end(
            &python(
                "
import os, sys
fd = os.open('sparse.dat', os.O_RDWR | os.O_CREAT)
far = int(sys.argv[1])
os.pwrite(fd, b'a' * 99 + b'\\n', 0)
os.pwrite(fd, b'b' * 99 + b'\\n', far)
os.pwrite(fd, b'c' * 99 + b'\\n', far // 2)
os.pwrite(fd, b'd' * 99 + b'\\n', far // 2 + 50)
os.ftruncate(fd, far * 2)
",
            ),
            &[far.to_string()],
        )?;
        site.stop(replicator)?;
        site.assert_mirrored().with_context(|| name.to_owned())?;
        site.finish();
    }
    Ok(())
}

/// Renamed by somebody that isn't captured, while a program goes on writing to it by its descriptor.
#[test]
fn a_file_renamed_by_somebody_unseen_is_followed_to_its_new_name() -> Result<()> {
    let site = Site::with("moved", &[Group::new("group", "none").file("*.dat", LINES)])?;
    let replicator = site.replicator()?;
    let program = site.exec(
        &python(
            "
import os, time
fd = os.open('a.dat', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b'before\\n')
while not os.path.exists('go'): time.sleep(.001)
os.write(fd, b'behind\\n')
while not os.path.exists('stop'): time.sleep(.001)
",
        ),
        &[""; 0],
    )?;
    let rows = |table, count| {
        wait_until(table, || match site.rows(table) {
            Ok(rows) if rows.len() == count => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    rows("a_dat", 1)?;
    std::fs::rename(site.path("a.dat"), site.path("b.dat"))?;
    rows("b_dat", 1)?;
    wait_until("the old name to be gone", || match site.tables() {
        Ok(tables) if tables == ["b_dat"] => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    std::fs::write(site.path("go"), "")?;
    rows("b_dat", 2)?;
    std::fs::write(site.path("stop"), "")?;
    program.finish()?.success()?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}
