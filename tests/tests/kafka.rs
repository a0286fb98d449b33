//! Through a real Kafka-protocol broker: capture, Kafka, apply, in one process and in several, while any of them is killed.

use anyhow::{Context as _, Result};
use counterfoil_tests::{Broker, Group, Shape, Site, c, wait_until};
use std::collections::BTreeMap;

/// A site that has Kafka between capture and apply.
fn site(name: &str, groups: &[Group]) -> Result<(Site, Broker)> {
    let site = Site::new(name)?;
    let broker = Broker::start(&site)?;
    site.configure_text(&(site.config_text(groups) + &broker.config()))?;
    Ok((site, broker))
}

fn assert_equal(site: &Site) -> Result<()> {
    let verdict = site.verify()?;
    anyhow::ensure!(
        verdict.equal,
        "verify finds differences in {}: {:?}",
        site.root().display(),
        verdict.differences
    );
    site.restore_and_compare()
}

#[test]
fn all_organisations_go_through_kafka() -> Result<()> {
    let blocks = Group::new("other", "none").file_as(
        "blocks.dat",
        "organization = \"stream\"\nlayout = \"blocks\"\nrecord_size = 512",
    );
    let (site, _broker) = site("kafka-all", &[Group::card_switch(), blocks])?;
    let switch = c("card_switch")?;
    site.exec_to_end(&switch, &[".", "--cards", "60", "--payments", "200"])?;
    std::fs::write(site.path("blocks.dat"), vec![7; 5000]).context("writing blocks.dat")?;
    site.settle_apart()?;
    assert_equal(&site)?;
    // What happens while it all runs, and again while nothing does.
    let capture = site.start(site.counterfoil(&["capture"]))?;
    let apply = site.start(site.counterfoil(&["apply"]))?;
    site.exec_to_end(&switch, &[".", "--payments", "300", "--seed", "5"])?;
    for mut process in [capture, apply] {
        site.wait_until_halves_run()?;
        process.is_running()?;
        process.terminate();
        process.finish()?.success()?;
    }
    site.exec_to_end(&switch, &[".", "--payments", "100", "--seed", "6"])?;
    site.settle_apart()?;
    assert_equal(&site)?;
    // And both in one process.
    site.exec_to_end(&switch, &[".", "--payments", "100", "--seed", "7"])?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// With no broker at all capture goes on; the journal keeps it until there is one.
#[test]
fn what_is_captured_without_a_broker_arrives_once_there_is_one() -> Result<()> {
    let (site, mut broker) = site(
        "kafka-away",
        &[Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 })],
    )?;
    if !broker.is_own() {
        return Ok(());
    }
    broker.kill()?;
    let writer = c("record_writer")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    site.exec_to_end(&writer, &["a.dat", "1000"])?;
    wait_until("capture to say that Kafka is away", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        let problems = status["problems"].to_string();
        if problems.contains("Kafka, route lan") && status["operations"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })?;
    // Not even a restart needs one.
    site.stop(replicator)?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    broker.raise(&site)?;
    wait_until("all rows", || match site.rows("a_dat") {
        Ok(rows) if rows.len() == 1000 => Ok(()),
        Ok(rows) => Err(format!("{} rows", rows.len())),
        Err(error) => Err(format!("{error:#}; {}", replicator.stderr())),
    })?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// A target that comes later, on a site of its own, gets everything from the topic; so does a second one.
#[test]
fn another_site_applies_what_the_topic_holds() -> Result<()> {
    let (site, broker) = site("kafka-site", &[Group::card_switch()])?;
    let switch = c("card_switch")?;
    site.exec_to_end(&switch, &[".", "--cards", "40", "--payments", "100"])?;
    site.run(&["capture", "--until-idle"])?.success()?;
    site.exec_to_end(&switch, &[".", "--payments", "100", "--seed", "3"])?;
    site.run(&["capture", "--until-idle"])?.success()?;
    let other = Site::new("kafka-other")?;
    other.configure_text(&format!(
        "[site]\nname = \"dr\"\nstate = {:?}\n{}streams = [\"test/payments\"]\n\
         [[sink]]\nname = \"default\"\nsqlite = {{ path = {:?} }}\n\
         [[sink]]\nname = \"second\"\nsqlite = {{ path = {:?} }}\n",
        other.state(),
        broker.config(),
        other.root().join("one.db"),
        other.root().join("two.db"),
    ))?;
    other.run(&["apply", "--until-idle"])?.success()?;
    // The site's own target, by its own configuration, for comparison.
    site.run(&["apply", "--until-idle"])?.success()?;
    assert_equal(&site)?;
    let expected = site.rows("cards_dat")?;
    assert!(expected.len() > 30, "{} cards", expected.len());
    for name in ["one.db", "two.db"] {
        assert_eq!(
            rows_in(&other.root().join(name), "cards_dat")?,
            expected,
            "{name}"
        );
    }
    // Where no files are, nothing was compared, and nobody is told that all is equal.
    let verified = other.run(&["verify"])?.expect_code(2)?;
    assert!(
        verified.stderr.contains("no files here to compare"),
        "{}",
        verified.stderr
    );
    // A target that was restored from an old backup gets what it lacks.
    std::fs::copy(other.root().join("one.db"), other.root().join("backup.db"))?;
    site.exec_to_end(&switch, &[".", "--payments", "200", "--seed", "4"])?;
    site.settle_apart()?;
    other.run(&["apply", "--until-idle"])?.success()?;
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(other.root().join(format!("one.db{suffix}")));
    }
    std::fs::rename(other.root().join("backup.db"), other.root().join("one.db"))?;
    other.run(&["apply", "--until-idle"])?.success()?;
    let expected = site.rows("cards_dat")?;
    for name in ["one.db", "two.db"] {
        assert_eq!(
            rows_in(&other.root().join(name), "cards_dat")?,
            expected,
            "{name}"
        );
    }
    other.finish();
    site.finish();
    Ok(())
}

fn rows_in(database: &std::path::Path, table: &str) -> Result<BTreeMap<u64, Vec<u8>>> {
    let connection = rusqlite::Connection::open(database)?;
    let mut statement =
        connection.prepare(&format!("SELECT slot_number, data FROM \"{table}\""))?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A host that was replaced must not go on publishing, whatever it finds when it comes back.
#[test]
fn a_replaced_publisher_is_refused() -> Result<()> {
    let group = || Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 });
    let (site, broker) = site("kafka-fence", &[group()])?;
    let writer = c("record_writer")?;
    site.exec_to_end(&writer, &["a.dat", "100"])?;
    site.run(&["capture", "--until-idle"])?.success()?;
    // Another state directory takes over: same site, same files.
    let config = std::fs::read_to_string(site.config())?;
    let state = format!("{:?}", site.state());
    let taken_over = format!("{:?}", site.root().join("state-2"));
    site.configure_text(&config.replace(&state, &taken_over))?;
    let mut second = site.start(site.counterfoil(&["capture"]))?;
    site.wait_until_up(&mut second)?;
    wait_until("the second one to publish", || {
        let status = site.status().map_err(|error| format!("{error:#}"))?;
        match status["sinks"]["kafka"]["applied_end"].as_u64() {
            Some(end) if end > 1 && status["sinks"]["kafka"]["route"] == "lan" => Ok(()),
            _ => Err(status.to_string()),
        }
    })?;
    let mut back = site.counterfoil(&["capture", "--until-idle"]);
    let first = site.root().join("first.toml");
    std::fs::write(&first, &config)?;
    back.arg("--config").arg(&first);
    site.start(back)?.finish()?.refused_with(&[
        "another publisher has sent",
        &broker.topic("g"),
        "move the state directory",
    ])?;
    // What it would have published arrives by the one that replaced it.
    site.stop(second)?;
    site.exec_to_end(&writer, &["a.dat", "300"])?;
    site.settle_apart()?;
    // The default sink is in the state directory.
    assert_equal(&site)?;
    site.finish();
    Ok(())
}

/// Records larger than a message travel in parts.
#[test]
fn records_larger_than_a_message_arrive() -> Result<()> {
    let group = Group::new("big", "none").file_as(
        "big.dat",
        "organization = \"fixed\"\nlayout = \"plain\"\nrecord_size = 3000000",
    );
    let (site, _broker) = site("kafka-large", &[group])?;
    let content: Vec<u8> = (0..9_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(site.path("big.dat"), &content)?;
    site.settle_apart()?;
    assert_equal(&site)?;
    site.finish();
    Ok(())
}

/// What a person sees of a topic.
#[test]
fn events_shows_what_is_on_a_topic() -> Result<()> {
    let group = Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 });
    let (site, broker) = site("kafka-events", &[group])?;
    site.exec_to_end(&c("record_writer")?, &["a.dat", "30"])?;
    site.run(&["capture", "--until-idle"])?.success()?;
    let lines = |arguments: &[&str]| -> Result<Vec<String>> {
        let arguments = [&["events"], arguments].concat();
        let finished = site.run(&arguments)?.success()?;
        Ok(finished.stdout.lines().map(str::to_owned).collect())
    };
    let all = lines(&["g"])?;
    assert_eq!(all, lines(&[&broker.topic("g")])?);
    assert_eq!(all, lines(&["test/g", "--since", "1h"])?);
    assert!(all.iter().any(|line| line.contains("heartbeat")), "{all:?}");
    let of_record = lines(&["g", "--file", "a.dat", "--record", "7"])?;
    let puts = of_record
        .iter()
        .filter(|line| line.contains(" put ") && line.contains(" #7 "));
    assert!(puts.count() >= 1, "{of_record:?}");
    assert!(of_record.len() < all.len());
    assert!(lines(&["g", "--file", "b.dat"])?.is_empty());
    assert!(lines(&["g", "--until", "2020-01-01T00:00:00Z"])?.is_empty());
    let json = lines(&["g", "--json", "--record", "7"])?;
    let event: serde_json::Value = serde_json::from_str(json.last().context("an event")?)?;
    assert_eq!(event["site"], "test");
    assert_eq!(event["record"], 7);
    assert!(
        event["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("/a.dat"))
    );
    let check = site.run(&["check"])?.success()?;
    for words in ["route lan", "answers", "is there, with one partition"] {
        assert!(check.stdout.contains(words), "{words}: {}", check.stdout);
    }
    site.run(&["events", "nothing"])?
        .refused_with(&["there is no topic nothing"])?;
    site.finish();
    Ok(())
}

/// Two ways to one cluster; the preferred one is cut, and heals.
#[test]
fn a_route_that_is_cut_is_left_and_taken_again_when_it_heals() -> Result<()> {
    let group = Group::new("g", "none").file("a.dat", Shape::Fixed { size: 100 });
    let site = Site::new("kafka-routes")?;
    let mut first = Broker::start(&site)?;
    if !first.is_own() {
        return Ok(());
    }
    let second = Broker::beside(&site, "broker.db")?;
    let routes = [("a", first.bootstrap()), ("b", second.bootstrap())];
    site.configure_text(&(site.config_text(&[group]) + &first.config_with(&routes)))?;
    let writer = c("record_writer")?;
    let mut replicator = site.replicator()?;
    site.wait_until_up(&mut replicator)?;
    let on_route = |route: &str| {
        wait_until(&format!("the route {route}"), || {
            let status = site.status().map_err(|error| format!("{error:#}"))?;
            let used = |sink: &str| status["sinks"][sink]["route"] == route;
            if used("kafka") && used("default") {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
    };
    let has_rows = |count: usize| {
        wait_until(&format!("{count} rows"), || match site.rows("a_dat") {
            Ok(rows) if rows.len() == count => Ok(()),
            Ok(rows) => Err(format!("{} rows", rows.len())),
            Err(error) => Err(format!("{error:#}")),
        })
    };
    on_route("a")?;
    site.exec_to_end(&writer, &["a.dat", "200"])?;
    has_rows(200)?;
    first.kill()?;
    site.exec_to_end(&writer, &["a.dat", "200"])?;
    on_route("b")?;
    has_rows(400)?;
    let status = site.status()?;
    assert!(
        status["problems"]
            .to_string()
            .contains("the route a isn't used"),
        "{status}"
    );
    first.raise(&site)?;
    on_route("a")?;
    site.exec_to_end(&writer, &["a.dat", "200"])?;
    has_rows(600)?;
    site.stop(replicator)?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// Static files with their attributes, directories and links.
#[test]
fn trees_go_through_kafka() -> Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let group = Group::new("settings", "none").tree("etc", "");
    let (site, _broker) = site("kafka-trees", &[group])?;
    let root = site.path("etc");
    std::fs::create_dir_all(root.join("conf.d/deep"))?;
    std::fs::write(root.join("app.conf"), "port = 80\n")?;
    std::fs::write(root.join("conf.d/deep/big"), vec![7; 600_000])?;
    symlink("app.conf", root.join("link"))?;
    site.settle_apart()?;
    site.assert_tree_mirrored("etc", &|_| false)?;
    std::fs::write(root.join("app.conf"), "port = 8080\n")?;
    std::fs::set_permissions(
        root.join("app.conf"),
        std::fs::Permissions::from_mode(0o640),
    )?;
    std::fs::rename(root.join("conf.d"), root.join("conf.new"))?;
    std::fs::remove_file(root.join("link"))?;
    site.settle_apart()?;
    site.assert_tree_mirrored("etc", &|_| false)?;
    site.finish();
    Ok(())
}
