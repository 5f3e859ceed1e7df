//! The reference project as the demo runs it: embedded in the program, written to a folder, and told what the stand-in ERP offers. It does not check the project; the engine does.

use std::fs;
use std::path::Path;

use include_dir::{Dir, include_dir};

use super::erp::Mode;

const SETTINGS: &str = include_str!("../../crossdock.yaml");
static FOLDERS: [(&str, Dir<'_>); 5] = [
    ("flows", include_dir!("$CARGO_MANIFEST_DIR/flows")),
    ("mappings", include_dir!("$CARGO_MANIFEST_DIR/mappings")),
    ("schemas", include_dir!("$CARGO_MANIFEST_DIR/schemas")),
    ("systems", include_dir!("$CARGO_MANIFEST_DIR/systems")),
    ("tables", include_dir!("$CARGO_MANIFEST_DIR/tables")),
];

/// The flow that books, and what it says of the ERP.
const BOOKING: &str = "flows/order-booking.yaml";
const KEY: &str = ", idempotency_key: orderNumber, kept: 24h";
const PROBE: &str = "probe: ";
/// What the settings demand of effects.
const EFFECTS: &str = " effects: error,";

/// Writes the reference project, or a copy of the one in `from`, to the folder `to`; its booking flow claims no more of the ERP than `mode` offers.
pub fn write(from: Option<&Path>, to: &Path, mode: Mode) -> Result<(), String> {
    match from {
        Some(from) => copy(from, to)?,
        None => unpack(to)?,
    }
    let booking = to.join(BOOKING);
    let text =
        fs::read_to_string(&booking).map_err(|error| format!("{}: {error}", booking.display()))?;
    let text = claim(&text, mode).ok_or_else(|| {
        format!(
            "{}: the key or the probe of the ERP's sink is not where the demo looks for it",
            booking.display()
        )
    })?;
    fs::write(&booking, text).map_err(|error| format!("{}: {error}", booking.display()))?;
    if mode == Mode::Neither {
        relax(&to.join("crossdock.yaml"))?;
    }
    Ok(())
}

/// Takes back the policy that every effect can be repeated safely: an ERP that offers nothing against booking twice cannot be held to it.
fn relax(settings: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", settings.display());
    let text = fs::read_to_string(settings).map_err(wrong)?;
    fs::write(settings, text.replacen(EFFECTS, "", 1)).map_err(wrong)
}

/// The booking flow for an ERP of this mode; `None` if it has no key or probe to leave out.
fn claim(text: &str, mode: Mode) -> Option<String> {
    if mode == Mode::Keys {
        return Some(text.to_owned());
    }
    let mut keyless = text.replacen(KEY, "", 1);
    if keyless == text {
        return None;
    }
    if mode == Mode::Neither {
        let start = keyless.find(PROBE)?;
        let line = keyless[..start].rfind('\n').map_or(0, |end| end + 1);
        let end = keyless[start..]
            .find('\n')
            .map_or(keyless.len(), |end| start + end + 1);
        keyless.replace_range(line..end, "");
    }
    Some(keyless)
}

fn unpack(to: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", to.display());
    fs::create_dir_all(to).map_err(wrong)?;
    fs::write(to.join("crossdock.yaml"), SETTINGS).map_err(wrong)?;
    for (name, folder) in &FOLDERS {
        let place = to.join(name);
        fs::create_dir_all(&place).map_err(wrong)?;
        folder.extract(&place).map_err(wrong)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", from.display());
    fs::create_dir_all(to).map_err(wrong)?;
    fs::copy(from.join("crossdock.yaml"), to.join("crossdock.yaml")).map_err(wrong)?;
    for (name, _) in &FOLDERS {
        copy_folder(&from.join(name), &to.join(name)).map_err(wrong)?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the project for `mode` and tells whether the booking flow names a key and a probe.
    fn check(mode: Mode, expect: (bool, bool)) {
        let folder = tempfile::tempdir().unwrap();
        write(None, folder.path(), mode).unwrap();
        let text = fs::read_to_string(folder.path().join(BOOKING)).unwrap();
        assert_eq!(
            (text.contains("idempotency_key:"), text.contains("probe:")),
            expect
        );
        assert!(text.contains("retry: { attempts:"));
        let settings = fs::read_to_string(folder.path().join("crossdock.yaml")).unwrap();
        assert_eq!(settings.contains(EFFECTS), mode != Mode::Neither);
    }

    #[test]
    fn the_booking_flow_claims_what_the_erp_offers() {
        check(Mode::Keys, (true, true));
        check(Mode::Probe, (false, true));
        check(Mode::Neither, (false, false));
    }

    #[test]
    fn the_embedded_project_is_the_one_in_the_repository() {
        let (embedded, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(None, embedded.path(), Mode::Keys).unwrap();
        write(
            Some(Path::new(env!("CARGO_MANIFEST_DIR"))),
            copied.path(),
            Mode::Keys,
        )
        .unwrap();
        for file in [
            "crossdock.yaml",
            BOOKING,
            "mappings/storefront-order.yaml",
            "schemas/canonical/order.v1.json",
            "systems/erp.yaml",
            "tables/units.csv",
        ] {
            let read = |folder: &Path| fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(read(embedded.path()), read(copied.path()), "{file}");
        }
    }
}
