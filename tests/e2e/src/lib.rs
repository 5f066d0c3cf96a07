//! Whole clients against the embedded server; the tests are under `tests/`.
