//! What is applied: records of 100 and 500 bytes, as raw images alone and with columns beside them.

use super::Outcome;
use counterfoil_records::copybook::{Copybook, NoLibrary, Options, Text};
use counterfoil_records::schema::Dialect;
use counterfoil_records::value::Value;
use counterfoil_records::{self as records, Organization, RecordFormat};
use counterfoil_sinks::plan::{CellRoom, Origin, Plan, PlanColumn, PlanSpec};
use counterfoil_sinks::{FileDescription, FileSchema};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;

/// 100 bytes, 8 fields.
const ACCOUNT: &str = "\
       01  ACCOUNT.
           05  ACCOUNT-ID     PIC 9(12).
           05  BRANCH         PIC 9(6).
           05  HOLDER         PIC X(40).
           05  BALANCE        PIC S9(11)V99 COMP-3.
           05  CREDIT-LIMIT   PIC S9(9)V99 COMP-3.
           05  TURNS          PIC S9(9) COMP.
           05  STATUS-CODE    PIC X(1).
           05  REMARK         PIC X(24).
";

/// 400 bytes more, 12 fields.
const MORE: &str = "\
           05  STREET         PIC X(60).
           05  CITY           PIC X(40).
           05  COUNTRY        PIC X(2).
           05  PHONE          PIC X(20).
           05  EMAIL          PIC X(80).
           05  OPENED         PIC 9(8).
           05  CLOSED         PIC 9(8).
           05  FEE            PIC S9(7)V99 COMP-3.
           05  RATE           PIC S9(3)V9(4) COMP-3.
           05  POINTS         PIC S9(9) COMP.
           05  SERIAL-NO      PIC S9(18) COMP.
           05  NOTE           PIC X(161).
";

/// How records look, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Raw100,
    Raw500,
    Typed100,
    Typed500,
}

impl Layout {
    pub(super) const ALL: [Layout; 4] = [
        Layout::Raw100,
        Layout::Raw500,
        Layout::Typed100,
        Layout::Typed500,
    ];

    fn size(self) -> usize {
        match self {
            Layout::Raw100 | Layout::Typed100 => 100,
            Layout::Raw500 | Layout::Typed500 => 500,
        }
    }

    fn is_typed(self) -> bool {
        matches!(self, Layout::Typed100 | Layout::Typed500)
    }
}

impl Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_typed() { "typed" } else { "raw" };
        write!(f, "{word}-{}", self.size())
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Layout, String> {
        let found = Layout::ALL
            .into_iter()
            .find(|layout| layout.to_string() == text);
        found.ok_or_else(|| format!("there is no layout {text}"))
    }
}

/// Records of a layout.
pub(super) struct Records {
    layout: Layout,
    file: Arc<FileDescription>,
}

impl Records {
    pub(super) fn new(layout: Layout) -> Outcome<Records> {
        let format = RecordFormat {
            organization: Organization::Fixed,
            layout: records::Layout::Plain,
            settings: records::Settings::NONE,
            record_size: Some(layout.size() as u64),
            varseq_format: None,
        };
        let schema = layout.is_typed().then(|| schema(layout)).transpose()?;
        let origin = Origin {
            site: "bench",
            group: "bench",
            path: "/srv/records.dat",
        };
        let plan = schema
            .as_ref()
            .map(|schema| Plan::new(&PlanSpec::default(), Some(schema), &format, origin))
            .transpose()
            .map_err(|problems| problems.join("\n"))?;
        let file = FileDescription {
            path: b"/srv/records.dat".to_vec(),
            group: "bench".into(),
            format,
            table: None,
            tree: None,
            schema,
            plan: plan.map(Arc::new),
        };
        Ok(Records {
            layout,
            file: Arc::new(file),
        })
    }

    pub(super) fn file(&self) -> &Arc<FileDescription> {
        &self.file
    }

    /// Bytes of a record.
    pub(super) fn size(&self) -> usize {
        self.layout.size()
    }

    /// The columns beside the raw image; for text that says why one has no value, there is another behind them.
    pub(super) fn columns(&self) -> &[PlanColumn] {
        self.file.plan.as_ref().map_or(&[], |plan| plan.columns())
    }

    /// The values of these columns.
    pub(super) fn cells(&self, data: &[u8], room: &mut CellRoom, each: &mut dyn FnMut(Value<'_>)) {
        if let Some(plan) = &self.file.plan {
            let problem = plan.cells(data, false, room, each);
            assert_eq!(problem, None, "every field has a value");
        }
    }

    /// A record, which is another one in each turn.
    pub(super) fn content(&self, id: u64, turn: u64) -> Vec<u8> {
        let size = self.size();
        if !self.layout.is_typed() {
            // Digits and filling.
            let mut content = format!("{id:012}{turn:08}").into_bytes();
            content.resize(size, b' ');
            return content;
        }
        let mut record = Vec::with_capacity(size);
        let text = |record: &mut Vec<u8>, text: &str, len: usize| {
            let end = record.len() + len;
            record.extend_from_slice(&text.as_bytes()[..text.len().min(len)]);
            record.resize(end, b' ');
        };
        record.extend_from_slice(format!("{id:012}{:06}", id % 997).as_bytes());
        text(&mut record, &format!("Holder of account {id}"), 40);
        packed(&mut record, id * 37 + turn * 100, 7);
        packed(&mut record, 500_000 + id % 1000, 6);
        record.extend_from_slice(&(turn as u32).to_be_bytes());
        record.push(b'A' + (id % 5) as u8);
        text(&mut record, "nothing to remark", 24);
        if size == 500 {
            text(&mut record, &format!("{} Long Street", id % 500), 60);
            text(&mut record, "Springfield", 40);
            text(&mut record, "US", 2);
            text(&mut record, &format!("+1 555 {:07}", id % 10_000_000), 20);
            text(&mut record, &format!("holder{id}@example.com"), 80);
            record.extend_from_slice(b"2019040120991231");
            packed(&mut record, id % 100_000, 5);
            packed(&mut record, 12_500 + id % 100, 4);
            record.extend_from_slice(&((id % 10_000) as u32).to_be_bytes());
            record.extend_from_slice(&(id * 1_000_003).to_be_bytes());
            text(
                &mut record,
                "opened at the counter, statements by mail",
                161,
            );
        }
        assert_eq!(record.len(), size, "the record fits its copybook");
        record
    }
}

fn schema(layout: Layout) -> Outcome<FileSchema> {
    let more = if layout == Layout::Typed500 { MORE } else { "" };
    let source = Text {
        name: "account.cpy".to_owned(),
        text: format!("{ACCOUNT}{more}"),
    };
    let options = Options {
        dialect: "gnucobol".parse::<Dialect>()?,
        format: None,
    };
    let copybook = Copybook::parse(&source, &options, &NoLibrary)
        .map_err(|problems| format!("the copybook isn't understood: {problems:?}"))?;
    let schema = copybook.record(None)?.clone();
    if schema.len_max() as usize != layout.size() {
        return Err(format!("a record has {} bytes", schema.len_max()).into());
    }
    Ok(FileSchema(Arc::new(schema)))
}

/// A packed decimal number of so many bytes, with a plus sign.
fn packed(record: &mut Vec<u8>, mut number: u64, len: usize) {
    let begin = record.len();
    record.resize(begin + len, 0);
    let bytes = &mut record[begin..];
    for (at, byte) in bytes.iter_mut().enumerate().rev() {
        let low = if at + 1 == len {
            0x0c
        } else {
            let digit = number % 10;
            number /= 10;
            digit as u8
        };
        *byte = low | ((number % 10) as u8) << 4;
        number /= 10;
    }
}
