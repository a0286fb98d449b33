//! Which settings go together, and what an error tells the person who typed them.

use counterfoil_records::{
    Boundaries, Layout, Organization, RECORD_SIZE_MAX, RecordFormat, VarseqFormat,
};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

fn error(format: &RecordFormat) -> String {
    match format.codec() {
        Ok(_) => panic!("{format} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_pair_either_works_or_says_what_to_write() {
    let works = [
        (Organization::Fixed, Layout::Plain),
        (Organization::Fixed, Layout::Gnucobol),
        (Organization::Relative, Layout::Gnucobol),
        (Organization::Sequential, Layout::Plain),
        (Organization::Sequential, Layout::Gnucobol),
        (Organization::Sequential, Layout::LineSequential),
        (Organization::Sequential, Layout::IbmV),
        (Organization::Sequential, Layout::RdwLittle),
        (Organization::Sequential, Layout::Vms),
        (Organization::Relative, Layout::MicroFocus),
        (Organization::Relative, Layout::MicroFocusCrlf),
        (Organization::Relative, Layout::Counted),
        (Organization::Sequential, Layout::IbmVb),
        (Organization::Sequential, Layout::IbmVs),
        (Organization::Sequential, Layout::IbmVbs),
        (Organization::Sequential, Layout::MicroFocusVariable),
        (Organization::Relative, Layout::MicroFocusVariable),
        (Organization::Relative, Layout::MicroFocusVariableCrlf),
        (Organization::Sequential, Layout::NonstopVarout),
        (Organization::Stream, Layout::Csv),
        (Organization::Stream, Layout::Newline),
        (Organization::Stream, Layout::Blocks),
        (Organization::Static, Layout::Blocks),
    ];
    for organization in Organization::ALL {
        for layout in Layout::ALL {
            let format = RecordFormat::new(organization, layout).with_record_size(80);
            if works.contains(&(organization, layout)) {
                assert!(format.codec().is_ok(), "{format}");
            } else {
                assert!(error(&format).contains("write "), "{}", error(&format));
            }
        }
    }
}

#[test]
fn sizes_are_checked() {
    for (organization, layout) in [
        (Organization::Fixed, Layout::Plain),
        (Organization::Fixed, Layout::Gnucobol),
        (Organization::Relative, Layout::Gnucobol),
        (Organization::Relative, Layout::MicroFocus),
        (Organization::Relative, Layout::MicroFocusCrlf),
        (Organization::Relative, Layout::Counted),
        (Organization::Sequential, Layout::Plain),
    ] {
        assert!(error(&RecordFormat::new(organization, layout)).contains("needs record_size"));
    }
    let blocks = RecordFormat::new(Organization::Stream, Layout::Blocks);
    assert!(error(&blocks.clone().with_record_size(0)).contains("record_size is 0"));
    assert!(
        error(&blocks.clone().with_record_size(RECORD_SIZE_MAX + 1))
            .contains("more than the largest")
    );
    assert!(
        blocks
            .clone()
            .with_record_size(RECORD_SIZE_MAX)
            .codec()
            .is_ok()
    );
    let blocks = blocks.codec().expect("blocks need no size");
    assert_eq!(blocks.boundaries(), Boundaries::Pitch(4096));
    let varseq = RecordFormat::new(Organization::Sequential, Layout::Gnucobol);
    assert!(error(&varseq.clone().with_record_size(65_536)).contains("at most 65535"));
    assert!(
        varseq
            .with_record_size(65_536)
            .with_varseq_format(VarseqFormat::Native32)
            .codec()
            .is_ok()
    );
}

#[test]
fn varseq_format_is_for_variable_sequential_files() {
    for format in [
        RecordFormat::new(Organization::Fixed, Layout::Gnucobol).with_record_size(80),
        RecordFormat::new(Organization::Sequential, Layout::Plain).with_record_size(80),
        RecordFormat::new(Organization::Stream, Layout::Newline),
    ] {
        assert!(
            error(&format.with_varseq_format(VarseqFormat::default())).contains("leave it out")
        );
    }
}

fn typed(name: &str) -> StrDeserializer<'_, serde::de::value::Error> {
    name.into_deserializer()
}

#[test]
fn names_are_those_of_a_configuration() {
    for organization in Organization::ALL {
        assert_eq!(organization.to_string().parse(), Ok(organization));
        assert_eq!(
            Organization::deserialize(typed(organization.name())),
            Ok(organization)
        );
    }
    for layout in Layout::ALL {
        assert_eq!(layout.to_string().parse(), Ok(layout));
        assert_eq!(Layout::deserialize(typed(layout.name())), Ok(layout));
    }
    assert!(
        "indexed"
            .parse::<Organization>()
            .is_err_and(|error| error.to_string().contains("not \"indexed\""))
    );
    assert!("tsv".parse::<Layout>().is_err());
    let format = RecordFormat::new(Organization::Relative, Layout::Gnucobol).with_record_size(150);
    assert_eq!(format.to_string(), "relative, gnucobol, record_size 150");
    assert_eq!(format.identity_name(), "slot_number");
    assert_eq!(
        RecordFormat::new(Organization::Stream, Layout::Newline).identity_name(),
        "address"
    );
    assert_eq!(
        RecordFormat::new(Organization::Stream, Layout::Blocks).identity_name(),
        "block_number"
    );
}
