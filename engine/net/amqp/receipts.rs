//! Which deliveries of a channel are done with, and what the broker is told: whatever is done from the first one on together, what stands
//! behind one that takes longer each by itself. It talks to nobody.

use std::collections::VecDeque;

/// How a delivery is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It is acknowledged: the broker forgets it.
    Taken,
    /// It goes back to its queue.
    Back,
    /// It is not wanted: the broker drops it, or does with it what its queue's owner has said.
    Rejected,
}

/// What the broker is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// All up to this tag are acknowledged.
    TakenUpTo(u64),
    /// This one is.
    Taken(u64),
    /// This one goes back, or is dropped.
    Refused {
        /// The tag.
        tag: u64,
        /// Whether it goes back to its queue.
        back: bool,
    },
}

/// The deliveries of a channel from the first one that the broker still waits for. Tags count from 1, without gaps.
#[derive(Debug)]
pub(super) struct Window {
    first: u64,
    marks: VecDeque<Mark>,
    /// How many are done with and not told.
    done: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Open,
    Done(Receipt),
    Told,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            first: 1,
            marks: VecDeque::new(),
            done: 0,
        }
    }
}

impl Window {
    /// A delivery came.
    pub(super) fn came(&mut self, tag: u64) {
        while self.first + (self.marks.len() as u64) <= tag {
            self.marks.push_back(Mark::Open);
        }
    }

    /// A delivery is done with; a second word on it means nothing. Gives how many are done with and not told.
    pub(super) fn settle(&mut self, tag: u64, receipt: Receipt) -> usize {
        let at = tag.checked_sub(self.first);
        let mark = at.and_then(|at| self.marks.get_mut(usize::try_from(at).ok()?));
        if let Some(mark @ Mark::Open) = mark {
            *mark = Mark::Done(receipt);
            self.done += 1;
        }
        self.done
    }

    /// How many are done with and not told.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// What there is to tell, in the order in which it must be told.
    pub(super) fn tell(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        let mut up_to = None;
        while let Some(mark) = self.marks.front() {
            match mark {
                Mark::Open | Mark::Done(Receipt::Back | Receipt::Rejected) => break,
                Mark::Done(Receipt::Taken) => {
                    up_to = Some(self.first);
                    self.done -= 1;
                }
                // Told already: `up to` may pass over it, but must not end there.
                Mark::Told => {}
            }
            self.marks.pop_front();
            self.first += 1;
        }
        told.extend(up_to.map(Told::TakenUpTo));
        if self.done > 0 {
            for (nth, mark) in self.marks.iter_mut().enumerate() {
                let Mark::Done(receipt) = *mark else {
                    continue;
                };
                let tag = self.first + nth as u64;
                told.push(match receipt {
                    Receipt::Taken => Told::Taken(tag),
                    Receipt::Back => Told::Refused { tag, back: true },
                    Receipt::Rejected => Told::Refused { tag, back: false },
                });
                *mark = Mark::Told;
            }
            self.done = 0;
        }
        while let Some(Mark::Told) = self.marks.front() {
            self.marks.pop_front();
            self.first += 1;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settles these tags, and says what is told.
    fn told(window: &mut Window, tags: &[u64]) -> Vec<Told> {
        for tag in tags {
            window.settle(*tag, Receipt::Taken);
        }
        window.tell()
    }

    fn ten() -> Window {
        let mut window = Window::default();
        (1..=10).for_each(|tag| window.came(tag));
        window
    }

    #[test]
    fn what_is_done_from_the_first_on_is_told_with_one_word() {
        let mut window = ten();
        assert_eq!(told(&mut window, &[2, 1, 3]), [Told::TakenUpTo(3)]);
        assert_eq!(told(&mut window, &[]), []);
        assert_eq!(told(&mut window, &[3, 4]), [Told::TakenUpTo(4)]);
    }

    #[test]
    fn one_that_takes_longer_does_not_hold_up_those_behind_it() {
        let mut window = ten();
        assert_eq!(told(&mut window, &[2, 4]), [Told::Taken(2), Told::Taken(4)]);
        assert_eq!(told(&mut window, &[1]), [Told::TakenUpTo(1)]);
        assert_eq!(told(&mut window, &[3, 5]), [Told::TakenUpTo(5)]);
        assert_eq!(told(&mut window, &[6, 7, 8, 9, 10]), [Told::TakenUpTo(10)]);
        assert_eq!(window.first, 11);
    }

    #[test]
    fn what_is_refused_is_never_acknowledged_with_others() {
        let mut window = ten();
        window.settle(2, Receipt::Back);
        window.settle(4, Receipt::Rejected);
        window.settle(2, Receipt::Taken);
        let all = told(&mut window, &[1, 3, 5]);
        let refused = |tag, back| Told::Refused { tag, back };
        let expect = [
            Told::TakenUpTo(1),
            refused(2, true),
            Told::Taken(3),
            refused(4, false),
            Told::Taken(5),
        ];
        assert_eq!(all, expect);
        assert_eq!(window.done(), 0);
        assert_eq!(told(&mut window, &[6]), [Told::TakenUpTo(6)]);
        assert_eq!(told(&mut window, &[99]), []);
    }
}
