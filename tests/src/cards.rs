//! `typed_cards.cob`: cards with a copybook, and what the program says of each that it wrote.

use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;

/// Columns of a card in the order in which the program tells them.
pub const CARD_COLUMNS: [&str; 9] = [
    "card_number",
    "holder",
    "balance",
    "credit_limit",
    "fee_1",
    "fee_2",
    "payments",
    "points",
    "card_state",
];

/// What the program said it wrote: the versions of each slot in their order; `None` for its deletion.
pub type WrittenCards = BTreeMap<u64, Vec<Option<Vec<String>>>>;

/// The rule of `cards.dat` in a configuration, without its path.
pub fn cards_config() -> String {
    let copybook = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/card.cpy");
    format!(
        "organization = \"relative\"\nlayout = \"gnucobol\"\nrecord_size = 87\ncopybook = {copybook:?}"
    )
}

/// What the program printed, taken apart.
pub fn written_cards(stdout: &str) -> Result<WrittenCards> {
    let mut written = WrittenCards::new();
    for line in stdout.lines() {
        let mut words = line.split('|').map(str::to_owned);
        let slot = words.next().unwrap_or_default();
        let slot: u64 = slot
            .parse()
            .with_context(|| format!("the slot in {line:?}"))?;
        let fields: Vec<String> = words.collect();
        let gone = fields == ["gone"];
        written
            .entry(slot)
            .or_default()
            .push((!gone).then_some(fields));
    }
    ensure!(written.len() == 10, "the program said {stdout}");
    Ok(written)
}
