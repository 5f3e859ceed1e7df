//! Announce and take hops: how messages pass from stage to stage. The store is the truth, a hand-off distributes.
