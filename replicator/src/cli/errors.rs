//! `counterfoil errors`: what was refused for good, and what to do with it.

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets};
use counterfoil::dead_letters::{Letter, Store};
use counterfoil::state;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Look at the events that Kafka or a target refuses for good, send them again, or forget them.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// List them: who refuses what, and why
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print one: what is known of it, or the event itself
    Show {
        /// Its number
        number: u64,
        /// Only the event, a counterfoil.v1.ChangeEvent in protobuf
        #[arg(long)]
        raw: bool,
    },
    /// Send again what is in the files now, and forget the letters
    Retry {
        /// Their numbers
        #[arg(required_unless_present = "all")]
        numbers: Vec<u64>,
        /// All of them
        #[arg(long, conflicts_with = "numbers")]
        all: bool,
    },
    /// Forget them; what they are about stays as it is in the targets
    Drop {
        /// Their numbers
        #[arg(required_unless_present = "all")]
        numbers: Vec<u64>,
        /// All of them
        #[arg(long, conflicts_with = "numbers")]
        all: bool,
    },
}

pub(crate) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = super::load(config)?;
    let store = Store::of(&config);
    match &args.what {
        What::List { json } => {
            let letters = store.list()?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&letters)?);
            } else {
                print(&letters);
            }
        }
        What::Show { number, raw } => {
            let (letter, event) = store.read(*number)?;
            if *raw {
                std::io::stdout()
                    .write_all(&event)
                    .context("writing the event")?;
            } else {
                println!("{}", serde_json::to_string_pretty(&letter)?);
            }
        }
        What::Retry { numbers, all } => {
            let letters = chosen(&store, numbers, *all)?;
            if let Some(other) = letters.iter().find(|letter| letter.refused_by != "kafka") {
                bail!(
                    "the dead letter {} is of {}, which can't be sent to it again in this version; repair it by hand, and drop the letter",
                    other.number,
                    other.refused_by
                );
            }
            if !letters.is_empty() {
                // What is in the files now outranks what was in them then.
                state::ask_to_read_again(&config)?;
                forget(&store, &letters)?;
                println!(
                    "{}: every file is read and sent again by `counterfoil capture`{}",
                    counted(&letters),
                    if state::running(&config).is_some() {
                        ""
                    } else {
                        " when it is started"
                    }
                );
            }
        }
        What::Drop { numbers, all } => {
            let letters = chosen(&store, numbers, *all)?;
            forget(&store, &letters)?;
            println!("{}: forgotten", counted(&letters));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(store: &Store, numbers: &[u64], all: bool) -> anyhow::Result<Vec<Letter>> {
    if all {
        return store.list();
    }
    let letters = numbers.iter().map(|&number| Ok(store.read(number)?.0));
    letters.collect()
}

fn forget(store: &Store, letters: &[Letter]) -> anyhow::Result<()> {
    letters
        .iter()
        .try_for_each(|letter| store.drop_letter(letter.number))
}

fn counted(letters: &[Letter]) -> String {
    match letters.len() {
        1 => "1 dead letter".to_owned(),
        count => format!("{count} dead letters"),
    }
}

fn print(letters: &[Letter]) {
    if letters.is_empty() {
        println!("no dead letters");
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "number",
        "refused by",
        "stream",
        "position",
        "file",
        "event",
        "bytes",
        "reason",
    ]);
    for letter in letters {
        let record = letter
            .record
            .map_or(String::new(), |record| format!(" #{record}"));
        table.add_row([
            letter.number.to_string(),
            letter.refused_by.clone(),
            letter.stream.clone(),
            letter.position.clone(),
            letter.file.clone(),
            format!("{}{record}", letter.op),
            letter.bytes.to_string(),
            letter.reason.clone(),
        ]);
    }
    println!("{table}");
}
