//! Colours: only where a terminal shows them, or where they are forced, and never against `NO_COLOR`.

use std::process::{Command, Output};

/// One golden case on the CPU, with these variables set.
fn verify(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
    command.env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
    command.args(["verify", "tests/golden", "--case", "rnn_tanh_T1_B1", "--device", "cpu"]);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.envs(variables.iter().copied()).output().expect("the program runs")
}

fn coloured(output: &Output) -> bool {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("pass") && text.contains("1 passed, 0 failed"), "{text}");
    text.contains('\u{1b}')
}

#[test]
fn colours_are_for_terminals_and_no_color_forbids_them() {
    assert!(!coloured(&verify(&[])), "a pipe");
    assert!(coloured(&verify(&[("CLICOLOR_FORCE", "1")])));
    assert!(!coloured(&verify(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")])));
    assert!(coloured(&verify(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "")])), "an empty variable says nothing");
}
