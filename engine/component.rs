//! What every part declares. It knows no kind of part.
