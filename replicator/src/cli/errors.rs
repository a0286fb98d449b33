//! `counterfoil errors`: what was refused for good, and what to do with it.

use anyhow::{Context as _, bail};
use comfy_table::{Table, presets};
use counterfoil::config::Config;
use counterfoil::dead_letters::{Letter, Store};
use counterfoil::state;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Who refuses what has to be sent to Kafka again.
const KAFKA: &str = "kafka";

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
    /// Try them again: what a sink refused is applied to it, and what Kafka refused, or a file that is passed over, is
    /// read from the files again
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
            retry(&config, &store, &letters)?;
        }
        What::Drop { numbers, all } => {
            let letters = chosen(&store, numbers, *all)?;
            forget(&store, &letters)?;
            println!("{}: forgotten", counted(letters.len()));
            for letter in letters.iter().filter(|letter| letter.is_stop()) {
                println!(
                    "{} isn't passed over any more; its table in {} lacks what was passed over until all files are read again (`counterfoil run --read-again`)",
                    letter.file, letter.refused_by
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has letters tried again, each by whom it takes.
fn retry(config: &Config, store: &Store, letters: &[Letter]) -> anyhow::Result<()> {
    let is_kafkas = |letter: &&Letter| letter.refused_by == KAFKA;
    let is_record = |letter: &&Letter| letter.record.is_some() && !letter.is_stop();
    let (of_kafka, of_sinks): (Vec<_>, Vec<_>) = letters.iter().partition(is_kafkas);
    for letter in &of_sinks {
        if !config
            .sinks
            .iter()
            .any(|sink| sink.name == letter.refused_by)
        {
            bail!(
                "the dead letter {} is of the sink {}, which {} doesn't have any more; drop it",
                letter.number,
                letter.refused_by,
                config.path.display()
            );
        }
    }
    let (records, files): (Vec<_>, Vec<_>) = of_sinks.into_iter().partition(is_record);
    for letter in records.iter().chain(&files) {
        store.ask(letter.number)?;
    }
    let (applier, verb) = match config.kafka {
        Some(_) => (
            state::applying(config).or(state::running(config)),
            "`counterfoil apply`",
        ),
        None => (state::running(config), "`counterfoil run`"),
    };
    let when = |running: Option<u32>| match running {
        Some(_) => "",
        None => " when it is started",
    };
    if !records.is_empty() {
        println!(
            "{}: tried again by {verb}{}; what is refused again stays in the list",
            counted(records.len()),
            when(applier)
        );
    }
    if of_kafka.is_empty() && files.is_empty() {
        return Ok(());
    }
    // What is in the files now outranks what was in them then.
    let reads = match config.kafka {
        Some(_) => "`counterfoil capture`",
        None => "`counterfoil run`",
    };
    let whose = counted(of_kafka.len() + files.len());
    if config.groups.is_empty() {
        println!("{whose}: run `counterfoil capture --read-again` on the host that has the files");
    } else {
        state::ask_to_read_again(config)?;
        println!(
            "{whose}: every file is read and sent again by {reads}{}",
            when(state::running(config))
        );
    }
    of_kafka
        .iter()
        .try_for_each(|letter| store.drop_letter(letter.number))
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

fn counted(letters: usize) -> String {
    match letters {
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
            if letter.asked {
                format!("(to be tried again) {}", letter.reason)
            } else {
                letter.reason.clone()
            },
        ]);
    }
    println!("{table}");
}
