//! Findings for people and machines: text with carets, JSON, SARIF 2.1.0 and GitHub annotations.
