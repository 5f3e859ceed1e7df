//! Rebuilds the program when the embedded reference project changes: what `include_dir!` embeds, cargo does not watch.

fn main() {
    for folder in [
        "flows",
        "mappings",
        "schemas",
        "systems",
        "tables",
        "samples",
        "engine/cli/new",
        "crossdock.yaml",
    ] {
        println!("cargo:rerun-if-changed={folder}");
    }
}
