//! Work on each of many files, on all processors. Findings stay in the order of the files.

use std::sync::Arc;

use super::memory::Shelf;
use crate::diagnostic::{File, Findings};

/// Fewer files than this are read by one thread.
const PARALLEL_MIN: usize = 8;

/// As `each`, and what is on the shelf already is taken from there.
pub(super) fn each_kept<T: Sync, R: Clone + Send + Sync>(
    items: &[T],
    file_of: impl Fn(&T) -> &Arc<File> + Sync,
    work: impl Fn(&T, &mut Findings) -> R + Sync,
    shelf: Option<&mut Shelf<R>>,
    findings: &mut Findings,
) -> Vec<R> {
    let Some(shelf) = shelf else {
        return each(items, work, findings);
    };
    let known = &*shelf;
    let one = |item: &T, _: &mut Findings| {
        let mut found = Vec::new();
        if let Some(result) = known.find(file_of(item), &mut found) {
            return (result, found, false);
        }
        let mut own = Findings::new();
        let result = work(item, &mut own);
        (result, own.iter().cloned().collect(), true)
    };
    let worked = each(items, one, findings);
    let mut results = Vec::with_capacity(worked.len());
    for (item, (result, found, fresh)) in items.iter().zip(worked) {
        if fresh {
            shelf.keep(file_of(item), &result, &found);
        }
        for finding in found {
            findings.push(finding);
        }
        results.push(result);
    }
    results
}

/// Works on each of many items, on all processors; findings stay in the order of the items.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T, &mut Findings) -> R + Sync,
    findings: &mut Findings,
) -> Vec<R> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8);
    if threads == 1 || items.len() < PARALLEL_MIN {
        return items.iter().map(|item| work(item, findings)).collect();
    }
    let work = &work;
    let share = |items: &[T]| {
        let mut findings = Findings::new();
        let results: Vec<R> = items.iter().map(|item| work(item, &mut findings)).collect();
        (results, findings)
    };
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = items
            .chunks(items.len().div_ceil(threads))
            .map(|chunk| scope.spawn(move || share(chunk)))
            .collect();
        let joined = running.into_iter().map(|thread| match thread.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(items.len());
    for (results, found) in parts {
        all.extend(results);
        findings.extend(found);
    }
    all
}
