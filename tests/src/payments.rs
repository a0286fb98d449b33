//! What has to hold in a mirror of the card switch at any moment.

use crate::site::Site;
use anyhow::{Context as _, Result};

/// The number of the last payment in the mirror, once it has been found consistent; `None` where there
/// are no tables or payments yet.
///
/// # Panics
/// The mirror has half of a payment.
pub fn consistent_payment(site: &Site) -> Result<Option<u64>> {
    let mut connection = site.sqlite()?;
    let transaction = connection.transaction()?;
    let entry: Option<Vec<u8>> = transaction
        .query_row(
            "SELECT data FROM journal_dat ORDER BY address DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .ok();
    let Some(entry) = entry else { return Ok(None) };
    let entry = String::from_utf8(entry).context("journal records are text")?;
    let (payment, slot) = (entry[1..13].parse::<u64>()?, entry[13..21].parse::<i64>()?);
    let card: Option<Vec<u8>> = transaction
        .query_row(
            "SELECT data FROM cards_dat WHERE slot_number = ?1",
            [slot],
            |row| row.get(0),
        )
        .ok();
    let last = |record: &[u8], from: usize| {
        String::from_utf8_lossy(&record[from..from + 12]).parse::<u64>()
    };
    match &entry[..1] {
        "P" => {
            let account: Vec<u8> = transaction
                .query_row(
                    "SELECT data FROM accounts_dat WHERE record_number = ?1",
                    [slot],
                    |row| row.get(0),
                )
                .with_context(|| format!("payment {payment}: no account {slot}"))?;
            assert_eq!(
                last(&account, 36)?,
                payment,
                "account {slot} lags behind the journal"
            );
            let card = card.with_context(|| format!("payment {payment}: no card {slot}"))?;
            assert_eq!(
                last(&card, 53)?,
                payment,
                "card {slot} lags behind the journal"
            );
        }
        "I" => {
            let card = card.with_context(|| {
                format!("card {slot} was issued by payment {payment}, but isn't there")
            })?;
            assert_eq!(last(&card, 53)?, payment, "card {slot} is an older one");
        }
        "C" => assert!(
            card.is_none(),
            "card {slot} was closed by payment {payment}, but is there"
        ),
        _ => {}
    }
    Ok(Some(payment))
}
