//! What must not compile: a field that would be hashed wrongly.

#[test]
fn only_what_is_hashed_right_compiles() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile/hashed.rs");
    cases.compile_fail("tests/compile/hash_map.rs");
    cases.compile_fail("tests/compile/misplaced.rs");
}
