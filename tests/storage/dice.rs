//! Chance that repeats itself: the same seed gives the same sequence.

/// A sequence.
pub struct Dice(u64);

impl Dice {
    /// The sequence of this seed.
    pub fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0xA24B_AED4_963E_E407))
    }

    /// A number below this one; 0 if that is 0.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        if below == 0 { 0 } else { mixed % below }
    }

    /// True with this likelihood.
    pub fn chance(&mut self, likelihood: f64) -> bool {
        (self.below(1 << 32) as f64) < likelihood * (1u64 << 32) as f64
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}
