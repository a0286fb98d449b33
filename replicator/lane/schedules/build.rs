//! Builds the lane crate, and its tests here, with `--cfg schedules`: see `sync.rs` there.

fn main() {
    println!("cargo::rustc-cfg=schedules");
    println!("cargo::rerun-if-changed=build.rs");
}
