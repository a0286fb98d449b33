//! What events say was there before, against what the events before them said.

use super::{LAYOUTS, NEVER, Stand, Step};
use crate::event::{Change, Event, RecordImage};
use counterfoil_records::Boundaries;
use std::collections::BTreeMap;

/// What events have told so far.
#[derive(Debug)]
pub(super) struct Told {
    /// Records by path and identity.
    records: BTreeMap<(Vec<u8>, u64), RecordImage>,
    /// Those that a range replaced by the unit of this lsn had.
    replaced: (u64, BTreeMap<(Vec<u8>, u64), RecordImage>),
    /// What was there is always known: nothing was published again, nothing loaded anew.
    pub(super) is_exact: bool,
    /// Events seen that say what was there.
    pub(super) befores: usize,
}

impl Default for Told {
    fn default() -> Told {
        Told {
            records: BTreeMap::new(),
            replaced: Default::default(),
            is_exact: true,
            befores: 0,
        }
    }
}

impl Told {
    /// Panics where an event says otherwise.
    pub(super) fn check(&mut self, event: &Event) {
        let path = &event.file.path;
        let codec = event.file.format.codec().unwrap();
        let is_pitched = matches!(codec.boundaries(), Boundaries::Pitch(_));
        if self.replaced.0 != event.position.lsn {
            self.replaced = (event.position.lsn, BTreeMap::new());
        }
        let (id, now) = match &event.change {
            Change::Put { id, data, rest } => {
                let (data, rest) = (data.clone(), rest.clone());
                (*id, Some(RecordImage { data, rest }))
            }
            Change::Residue { id, .. } | Change::Absent { id } => (*id, None),
            change => {
                assert_eq!(event.before, None, "{event:?}");
                let (from, to) = match change {
                    Change::Cleared { from, to } => (*from, *to),
                    Change::Removed => (0, u64::MAX),
                    Change::Renamed { from } => {
                        self.records.retain(|(of, _), _| of != path);
                        let moved = std::mem::take(&mut self.records).into_iter();
                        let moved = moved.map(|((of, id), record)| {
                            let of = if of == from.path { path.clone() } else { of };
                            ((of, id), record)
                        });
                        self.records = moved.collect();
                        return;
                    }
                    _ => return,
                };
                let gone: Vec<(Vec<u8>, u64)> = self
                    .records
                    .keys()
                    .filter(|(of, id)| of == path && (from..to).contains(id))
                    .cloned()
                    .collect();
                for key in gone {
                    let record = self.records.remove(&key);
                    self.replaced.1.extend(record.map(|record| (key, record)));
                }
                return;
            }
        };
        let key = (path.clone(), id);
        let told = self.records.remove(&key);
        match &event.before {
            Some(before) => {
                self.befores += 1;
                let known = told.as_ref().or_else(|| self.replaced.1.get(&key));
                // Where records have no fixed places, what was there may not have been told.
                if is_pitched || known.is_some() {
                    assert_eq!(Some(before), known, "{event:?}");
                }
            }
            None if self.is_exact && is_pitched => assert_eq!(told, None, "{event:?}"),
            None => {}
        }
        if let Some(now) = now {
            self.records.insert(key, now);
        }
    }
}

#[test]
fn a_changed_record_says_what_it_was() {
    for policy in ["none", "close"] {
        let (process, file) = (1, 0);
        let mut stand = Stand::new(LAYOUTS[0], policy, NEVER);
        stand.write(process, file, 0, b"aaaaaaabbbbbbb");
        stand.perform(&Step::Close { process, file });
        stand.apply();
        assert_eq!(stand.told.befores, 0, "{policy}");
        // Twice in a unit: what was there is what was told, not what was there in between.
        for content in [b"cccc", b"dddd"] {
            stand.write(process, file, 7, content);
        }
        stand.perform(&Step::Close { process, file });
        stand.apply();
        let expected = if policy == "close" { 1 } else { 2 };
        assert_eq!(stand.told.befores, expected, "{policy}");
    }
}
