//! The ways to install: in every program of the system, in units, in containers, and for programs of other users.
//!
//! What concerns the whole system is tried in a mount namespace of its own, where copies lie over `/etc` and `/usr/local`;
//! that takes root. By others it is tried as far as they may.

use anyhow::{Context as _, Result, ensure};
use counterfoil_tests::{Finished, Program, Shape, Site, c, counterfoil, interposer, wait_until};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

const RECORD: Shape = Shape::Fixed { size: 10 };
/// "nobody" of Debian.
const OTHER_USER: u32 = 65_534;

fn is_root() -> bool {
    // SAFETY: geteuid can't fail and touches nothing.
    unsafe { libc::geteuid() == 0 }
}

/// A site that everybody may get at, with lanes for everybody or not.
fn open_site(name: &str, access: &str) -> Result<Site> {
    let site = Site::for_others(name, access, RECORD)?;
    fs::set_permissions(site.data(), Permissions::from_mode(0o777))?;
    Ok(site)
}

fn count_lanes(site: &Site) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(site.root().join("lanes"))? {
        count += usize::from(entry?.path().extension().is_some_and(|word| word == "lane"));
    }
    Ok(count)
}

/// Directories that are to lie over the system's: `/etc` as it is, `/usr/local` with an installation.
fn system_of(site: &Site) -> Result<()> {
    let copied = Command::new("cp")
        .arg("--archive")
        .arg("/etc")
        .arg(site.root().join("etc"))
        .status()?;
    ensure!(copied.success(), "copying /etc: {copied}");
    let local = site.root().join("local");
    for (from, to) in [
        (counterfoil()?, "bin/counterfoil"),
        (
            interposer()?,
            "lib/counterfoil/libcounterfoil_interposer.so",
        ),
    ] {
        let to = local.join(to);
        fs::create_dir_all(to.parent().context("a directory")?)?;
        fs::copy(from, &to)?;
        fs::set_permissions(to, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Runs a script where those lie over the system's. `$CF` is the installed binary with the site's configuration.
fn in_system(site: &Site, script: &str) -> Result<Finished> {
    let root = site.root().display();
    let script = format!(
        "set -eu\nmount --bind {root}/etc /etc\nmount --bind {root}/local /usr/local\nROOT={root}\n\
         CF='/usr/local/bin/counterfoil --config {}'\n\
         lanes() {{ ls {root}/lanes | grep -c 'lane$' || true; }}\n{script}",
        site.config().display()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .env_remove("LD_PRELOAD")
        .env_remove("COUNTERFOIL_LANES")
        .current_dir(site.data());
    site.start(command)?.finish()
}

/// Every program is captured, whatever its environment, from `enable` to `disable`; other entries stay; what can't be
/// trusted is refused or ignored; and a library that is gone keeps no program from running.
#[test]
fn every_program_of_the_system_is_captured_when_that_is_enabled() -> Result<()> {
    if !is_root() {
        let site = open_site("preload", "owner")?;
        site.run(&["preload", "enable"])?.refused_with(&["root"])?;
        site.finish();
        return Ok(());
    }
    let site = open_site("preload", "all")?;
    system_of(&site)?;
    let told = in_system(
        &site,
        r#"
        echo '# kept' > /etc/ld.so.preload
        ! $CF preload status || exit 10
        $CF preload enable
        $CF preload enable   # once more changes nothing
        [ "$(cat /etc/ld.so.preload)" = "$(printf '# kept\n/usr/local/lib/counterfoil/libcounterfoil_interposer.so')" ] || exit 11
        $CF preload status || exit 12
        before=$(lanes)
        # No environment at all.
        env -i /bin/sh -c 'printf 0123456789 > one.dat'
        [ "$(lanes)" -gt "$before" ] || exit 13
        # Switched off for one program; the file is found changed, not told.
        before=$(lanes)
        COUNTERFOIL_LANES= /bin/sh -c 'printf 0123456789 > off.dat'
        [ "$(lanes)" = "$before" ] || exit 14
        # A program that is excepted by its name.
        echo 'excepted-by-na*' >> /etc/counterfoil/except
        cp /bin/dd $ROOT/excepted-by-name
        printf 0123456789 | $ROOT/excepted-by-name of=excepted.dat 2>/dev/null
        [ "$(lanes)" = "$before" ] || exit 15
        # A set-user-ID program takes no word from its user's environment.
        cp /bin/dd $ROOT/privileged && chmod 4755 $ROOT/privileged
        printf 0123456789 | COUNTERFOIL_LANES= setpriv --reuid=65534 --regid=65534 --clear-groups $ROOT/privileged of=privileged.dat 2>/dev/null
        [ "$(lanes)" -gt "$before" ] || exit 16
        # Settings that others may write count for nothing.
        before=$(lanes)
        chmod 666 /etc/counterfoil/lanes
        printf 0123456789 | dd of=open.dat 2>/dev/null
        [ "$(lanes)" = "$before" ] || exit 17
        ! $CF preload status || exit 18
        chmod 644 /etc/counterfoil/lanes
        chown 65534 /etc/counterfoil
        printf 0123456789 | dd of=owned.dat 2>/dev/null
        [ "$(lanes)" = "$before" ] || exit 19
        chown 0 /etc/counterfoil
        # The library is gone: ld.so says so, and every program runs.
        mv /usr/local/lib/counterfoil/libcounterfoil_interposer.so /usr/local/aside
        /bin/sh -c 'echo runs' > $ROOT/said 2> $ROOT/complaint
        [ "$(cat $ROOT/said)" = runs ] && grep -q 'cannot be preloaded' $ROOT/complaint || exit 20
        ! $CF preload status 2>/dev/null || exit 21
        # And so they do when it is no library any more.
        echo nonsense > /usr/local/lib/counterfoil/libcounterfoil_interposer.so
        /bin/sh -c 'echo runs' > $ROOT/said 2> $ROOT/complaint
        [ "$(cat $ROOT/said)" = runs ] || exit 22
        mv /usr/local/aside /usr/local/lib/counterfoil/libcounterfoil_interposer.so
        $CF preload disable
        [ "$(cat /etc/ld.so.preload)" = '# kept' ] || exit 23
        before=$(lanes)
        env -i /bin/sh -c 'printf 0123456789 > late.dat'
        [ "$(lanes)" = "$before" ] || exit 24
        "#,
    )?
    .success()?;
    ensure!(told.stdout.contains("to undo"), "{}", told.stdout);
    ensure!(
        !Path::new("/etc/ld.so.preload").exists(),
        "the test was to leave the system's own alone"
    );
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// What every program would load has to be root's, where it is always, and has to load.
#[test]
fn a_library_that_is_not_fit_for_every_program_is_refused_before_anything_is_written() -> Result<()>
{
    if !is_root() {
        // The namespace takes root; the rest of this is the same refusal as above.
        let site = open_site("unfit", "owner")?;
        site.run(&["preload", "enable", "--library", "lib.so"])?
            .refused_with(&["absolute"])?;
        site.finish();
        return Ok(());
    }
    let site = open_site("unfit", "owner")?;
    system_of(&site)?;
    let said = in_system(
        &site,
        r#"
        LIB=/usr/local/lib/counterfoil/libcounterfoil_interposer.so
        refused() { if $CF preload enable "$@"; then exit 30; fi; [ ! -e /etc/ld.so.preload ] || exit 31; }
        refused --library libcounterfoil_interposer.so
        refused --library /usr/local/lib/none.so
        cp $LIB $ROOT/libcounterfoil_interposer.so
        refused --library $ROOT/libcounterfoil_interposer.so
        chmod 775 $LIB; refused; chmod 755 $LIB
        chown 65534 /usr/local/lib/counterfoil; refused; chown 0 /usr/local/lib/counterfoil
        mkdir '/usr/local/a b'; cp $LIB '/usr/local/a b/'; refused --library '/usr/local/a b/libcounterfoil_interposer.so'
        # It doesn't load.
        mv $LIB /usr/local/aside; echo nonsense > $LIB; refused
        # It loads, and programs don't do the same any more.
        echo 'int close(int fd) { return -1; }' | cc -shared -fPIC -x c -o $LIB - ; refused
        "#,
    )?
    .success()?;
    for words in [
        "isn't an absolute path",
        "No such file",
        "is below /tmp",
        "may be written to by others",
        "belongs to user 65534",
        "holds a space",
        "does something else",
    ] {
        ensure!(
            said.stderr.contains(words),
            "{words:?} isn't in {}",
            said.stderr
        );
    }
    site.finish();
    Ok(())
}

/// Programs of another user have lanes of their own, which nobody else may look into, and can't change what others rely on.
#[test]
fn programs_of_other_users_are_captured_where_that_is_allowed() -> Result<()> {
    if !is_root() {
        let site = open_site("others", "all")?;
        // A replicator that isn't root can't read them, and check says so.
        let check = site.run(&["check"])?.expect_code(1)?;
        ensure!(
            check.stdout.contains("CAP_DAC_OVERRIDE"),
            "{}",
            check.stdout
        );
        site.finish();
        return Ok(());
    }
    for access in ["all", "group"] {
        let site = open_site("others", access)?;
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        let lanes = site.root().join("lanes");
        if access == "group" {
            std::os::unix::fs::chown(&lanes, None, Some(OTHER_USER))?;
            for name in ["board", "marks"] {
                std::os::unix::fs::chown(lanes.join(name), None, Some(OTHER_USER))?;
            }
            for entry in fs::read_dir(&lanes)? {
                std::os::unix::fs::chown(entry?.path(), None, Some(OTHER_USER))?;
            }
        }
        let script = "printf 0123456789 > records.dat; printf 9876543210 >> records.dat; \
                      ls ../lanes 2>/dev/null && exit 3; \
                      printf x 2>/dev/null >> ../lanes/board && exit 4; \
                      rm -f ../lanes/board 2>/dev/null && exit 5; \
                      mv ../lanes/marks ../lanes/other 2>/dev/null && exit 6; exit 0";
        let mut command = site.captured(&Program::named("sh"), &["-c", script]);
        command.uid(OTHER_USER).gid(OTHER_USER);
        site.start(command)?.finish()?.success()?;
        wait_until("the rows", || match site.rows("records_dat") {
            Ok(rows) if rows.len() == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        wait_until("what was told by lanes", || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let told = status["operations"].as_u64() >= Some(4);
            if told && status["problems"] == serde_json::json!([]) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })?;
        // They may only read the board; that they are captured is seen all the same.
        let mut holder = site.captured(&c("holder")?, &["held.dat", "open"]);
        holder.uid(OTHER_USER).gid(OTHER_USER);
        let mut holder = site.start(holder)?;
        wait_until("the file to be open", || {
            let said = holder.stdout();
            said.contains("ready").then_some(()).ok_or(said)
        })?;
        let check = site.run(&["check"])?;
        ensure!(
            !check.stdout.contains("has the interposer loaded"),
            "it is captured: {}",
            check.stdout
        );
        holder.kill()?;
        let mode = lanes.metadata()?.mode() & 0o7777;
        ensure!(
            mode == if access == "all" { 0o1733 } else { 0o3730 },
            "{mode:o}"
        );
        site.stop(replicator)?;
        // With nobody to read them, lanes stay; they are their owner's alone.
        let mut command = site.captured(
            &Program::named("sh"),
            &["-c", "printf 0123456789 >> records.dat"],
        );
        command.uid(OTHER_USER).gid(OTHER_USER);
        site.start(command)?.finish()?.success()?;
        ensure!(count_lanes(&site)? > 0);
        for entry in fs::read_dir(&lanes)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|word| word == "lane") {
                let there = entry.metadata()?;
                ensure!(there.uid() == OTHER_USER && there.mode() & 0o777 == 0o600);
            }
        }
        site.assert_mirrored()?;
        site.finish();
    }
    Ok(())
}

/// What root makes in somebody else's lanes directory is that one's: or the programs there could not read the rules.
#[test]
fn root_prepares_lanes_for_their_owner() -> Result<()> {
    let site = open_site("root-prepares", "owner")?;
    if !is_root() {
        // Without root there is only one's own.
        site.settle()?;
        ensure!(!site.root().join("lanes/marks").exists());
        site.finish();
        return Ok(());
    }
    std::os::unix::fs::chown(site.root(), Some(OTHER_USER), Some(OTHER_USER))?;
    let mut command = site.counterfoil(&["run", "--until-idle"]);
    command.uid(OTHER_USER).gid(OTHER_USER);
    site.start(command)?.finish()?.success()?;
    let text = fs::read_to_string(site.config())?;
    site.configure_text(&text.replacen("*.dat", "*.rec", 1))?;
    site.exec_to_end(&Program::named("true"), &["anything"])?;
    let rules = site.root().join("lanes/rules-2");
    ensure!(rules.metadata()?.uid() == OTHER_USER);
    let mut command = site.captured(
        &Program::named("sh"),
        &["-c", "printf 0123456789 > one.rec"],
    );
    command.uid(OTHER_USER).gid(OTHER_USER);
    site.start(command)?.finish()?.success()?;
    ensure!(count_lanes(&site)? == 1);
    site.finish();
    Ok(())
}

/// The lanes are opened to others, and closed again, while a program runs: it finds the new board each time.
#[test]
fn access_to_lanes_changes_while_programs_run() -> Result<()> {
    let site = open_site("access", "owner")?;
    let closed = fs::read_to_string(site.config())?;
    let opened = closed.replacen("\"owner\"", "\"all\"", 1);
    site.settle()?;
    let script = "n=0; while [ ! -e ../stop ]; do n=$((n+1)); printf '%010d' $n >> records.dat; sleep 0.01; done";
    let program = site.exec(&Program::named("sh"), &["-c", script])?;
    for text in [&opened, &closed] {
        site.configure_text(text)?;
        let mut replicator = site.replicator()?;
        site.wait_until_up(&mut replicator)?;
        let ahead = || {
            site.path("records.dat")
                .metadata()
                .map_or(0, |there| there.len() as usize / 10)
        };
        let until = ahead() + 20;
        wait_until("what is written from now on", || {
            match site.rows("records_dat") {
                Ok(rows) if rows.len() >= until => Ok(()),
                other => Err(format!("{:?} of {until}", other.map(|rows| rows.len()))),
            }
        })?;
        ensure!(site.root().join("lanes/marks").exists() == std::ptr::eq(text, &opened));
        site.stop(replicator)?;
    }
    fs::write(site.root().join("stop"), "")?;
    program.finish()?.success()?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

fn packaged(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// systemd takes the units as they are installed.
#[test]
fn the_units_are_in_order() -> Result<()> {
    let site = Site::new("units")?;
    // Under the names they are installed by, with programs that are there.
    let directory = site.root().join("units");
    fs::create_dir_all(directory.join("payroll.service.d"))?;
    let unit = fs::read_to_string(packaged("packaging/systemd/counterfoil.service"))?;
    let binary = counterfoil()?;
    fs::write(
        directory.join("counterfoil.service"),
        unit.replace("/usr/local/bin/counterfoil", &binary.display().to_string()),
    )?;
    fs::write(
        directory.join("payroll.service"),
        "[Service]\nType=exec\nExecStart=/bin/true\nDynamicUser=yes\nProtectSystem=strict\n",
    )?;
    fs::copy(
        packaged("packaging/systemd/captured.conf"),
        directory.join("payroll.service.d/counterfoil.conf"),
    )?;
    for unit in ["counterfoil.service", "payroll.service"] {
        let mut command = Command::new("systemd-analyze");
        command
            .args(["verify", "--man=no", "--generators=no"])
            .arg(directory.join(unit))
            .env("SYSTEMD_UNIT_PATH", format!("{}:", directory.display()));
        let finished = site.start(command)?.finish()?;
        let ours: Vec<&str> = finished
            .stderr
            .lines()
            .filter(|line| line.contains("counterfoil") || line.contains("payroll"))
            .collect();
        ensure!(
            finished.status.success() && ours.is_empty(),
            "{unit}: {}",
            finished.stderr
        );
    }
    site.finish();
    Ok(())
}

/// The compose file is one, and says what the application's container needs.
#[test]
fn the_compose_file_is_in_order() -> Result<()> {
    let site = Site::new("compose")?;
    let mut command = Command::new("docker-compose");
    command
        .arg("--file")
        .arg(packaged("docker-compose.yml"))
        .arg("config");
    let shown = site.start(command)?.finish()?.success()?.stdout;
    for (words, times) in [
        (
            "LD_PRELOAD: /usr/local/lib/counterfoil/libcounterfoil_interposer.so",
            1,
        ),
        ("COUNTERFOIL_LANES: /lanes", 1),
        ("pid: service:processes", 2),
        ("target: app", 2),
        ("target: counterfoil", 3),
        ("restart: unless-stopped", 8),
        // Nothing that is published is seen from outside of the host.
        ("- 127.0.0.1:94", 3),
        ("healthcheck:", 6),
        ("_PASSWORD_FILE: /run/secrets/", 2),
    ] {
        let found = shown.matches(words).count();
        ensure!(found == times, "{words:?} is there {found} times:\n{shown}");
    }
    site.finish();
    Ok(())
}

/// What the configurations in it name is where its volumes are, and each process takes its own.
#[test]
fn the_configurations_of_the_compose_file_are_in_order() -> Result<()> {
    let compose = packaged("packaging/compose");
    for name in ["capture", "apply-postgres", "apply-mariadb"] {
        let site = Site::new("compose-configured")?;
        let mut text = fs::read_to_string(compose.join(format!("{name}.toml")))?;
        let places: &[&str] = if name == "capture" {
            &["/data/", "/lanes\"", "/state\""]
        } else {
            &["/apply\""]
        };
        for place in places {
            let from = format!("\"{place}");
            ensure!(text.contains(&from), "{from}");
            text = text.replace(&from, &format!("\"{}{place}", site.root().display()));
        }
        // No name of the composition means anything here, and a target has to be there.
        let text = text.replace("kafka:9092", "127.0.0.1:1");
        site.configure_text(&text)?;
        let sinks = site.root().join("sinks.d");
        fs::create_dir(&sinks)?;
        fs::write(
            sinks.join("x.toml"),
            "name = \"x\"\nsqlite = { path = \"x.db\" }\n",
        )?;
        let check = site.run(&["check"])?;
        let errors = check
            .stdout
            .lines()
            .filter(|line| line.starts_with("error"));
        for error in errors {
            let is_kafka = error.to_lowercase().contains("kafka");
            ensure!(is_kafka || !is_root(), "{name}: {}", check.stdout);
        }
        ensure!(
            check.stdout.contains("kafka") || check.stdout.contains("Kafka"),
            "{}{}",
            check.stdout,
            check.stderr
        );
        site.finish();
    }
    // The targets' files: a name as the process's own, and no secret in them.
    for name in ["postgres", "mariadb"] {
        let text = fs::read_to_string(compose.join("sinks").join(format!("{name}.toml")))?;
        ensure!(text.contains(&format!("name = {name:?}")), "{text}");
        ensure!(
            text.contains(&format!("password_file = \"/run/secrets/{name}\"")),
            "{text}"
        );
        ensure!(text.contains(&format!("mirror@{name}/pay")), "{text}");
    }
    Ok(())
}
