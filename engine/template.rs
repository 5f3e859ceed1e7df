//! handlebars, for text: paths, addresses, labels. Pure.
