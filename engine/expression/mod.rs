//! JMESPath: parse with places, compile, evaluate over the tape, the function library. Pure; it looks nothing up by itself.
