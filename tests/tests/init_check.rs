//! `init` looks at real files and writes a configuration that `check` accepts and that mirrors them.

use anyhow::{Result, ensure};
use counterfoil_tests::{Group, Shape, Site, c, cobol};

#[test]
fn init_writes_a_configuration_for_real_files_that_mirrors_them() -> Result<()> {
    let site = Site::new("init")?;
    for program in [
        "cobol_relative",
        "cobol_fixed",
        "cobol_variable",
        "cobol_lines",
    ] {
        site.uncaptured(&cobol(program)?, &["200"])?;
    }
    site.uncaptured(&c("card_switch")?, &[".", "--payments", "1000"])?;
    let data = site.data();
    let data = data.to_str().expect("temporary paths are text");
    site.run(&["init", data])?.success()?;
    let text = std::fs::read_to_string(site.config())?;
    ensure!(
        text.lines().any(|line| line.starts_with('#')),
        "no comments in {text}"
    );
    for (file, words) in [
        ("relative.dat", &["relative", "record_size = 80"][..]),
        ("cards.dat", &["relative", "record_size = 150"]),
        ("accounts.dat", &["fixed", "record_size = 300"]),
        ("variable.dat", &["sequential"]),
        ("journal.dat", &["sequential"]),
        ("lines.txt", &["stream"]),
        ("switch.log", &["stream"]),
    ] {
        let rule = rule_of(&text, file);
        for word in words {
            ensure!(
                rule.contains(word),
                "{file}: no {word} in its rule:\n{rule}\n---\n{text}"
            );
        }
    }
    site.run(&["check"])?.success()?;
    site.settle()?;
    site.exec_to_end(&c("card_switch")?, &[".", "--payments", "500"])?;
    site.assert_mirrored()?;
    site.finish();
    Ok(())
}

/// The lines of the `[[group.file]]` whose path names this file, itself or by its directory's glob.
fn rule_of(text: &str, file: &str) -> String {
    let extension = file.rsplit('.').next().unwrap_or_default();
    let rules: Vec<&str> = text.split("[[group.file]]").skip(1).collect();
    let path = |rule: &str| {
        rule.lines()
            .find(|line| line.starts_with("path = "))
            .unwrap_or_default()
            .to_owned()
    };
    let named = rules
        .iter()
        .find(|rule| path(rule).contains(&format!("/{file}")));
    let globbed = rules
        .iter()
        .find(|rule| path(rule).contains(&format!("*.{extension}")));
    named
        .or(globbed)
        .map_or_else(String::new, |rule| (*rule).to_owned())
}

#[test]
fn init_does_not_overwrite_a_configuration() -> Result<()> {
    let site = Site::with(
        "init-twice",
        &[Group::new("group", "none").file("a.dat", Shape::Lines)],
    )?;
    let before = std::fs::read(site.config())?;
    let data = site.data();
    site.run(&["init", data.to_str().expect("temporary paths are text")])?
        .refused_with(&["counterfoil.toml"])?;
    assert!(std::fs::read(site.config())? == before);
    site.finish();
    Ok(())
}

#[test]
fn init_of_a_directory_that_is_not_there_names_it() -> Result<()> {
    let site = Site::new("init-nowhere")?;
    site.run(&["init", "/no/such/directory"])?
        .refused_with(&["/no/such/directory"])?;
    assert!(!site.config().exists());
    site.finish();
    Ok(())
}

#[test]
fn check_accepts_a_site_that_works() -> Result<()> {
    let site = Site::with("check", &[Group::card_switch()])?;
    site.exec_to_end(&c("card_switch")?, &[".", "--payments", "100"])?;
    site.settle()?;
    site.run(&["check"])?.success()?;
    site.finish();
    Ok(())
}
