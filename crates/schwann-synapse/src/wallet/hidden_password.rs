//! Passwords in environment variables, as the Python wallet hides them.

use base64::Engine;
use zeroize::Zeroizing;

use super::WalletError;

/// The environment variable in which the Python wallet looks for the password of a file: `BT_PW_` and
/// the path in capitals, with `_` for slashes and dots.
pub fn password_variable(path: &str) -> String {
    format!("BT_PW_{}", path.to_uppercase().replace(['/', '.'], "_"))
}

/// Reads a password as the Python wallet hides it in such a variable: base64 of its bytes, each combined
/// with the next of the variable's name. This hides it from a glance, not from a reader.
///
/// # Errors
///
/// Fails if the value is not base64 of UTF-8 text so combined.
pub fn reveal_password(variable: &str, value: &str) -> Result<Zeroizing<String>, WalletError> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.trim());
    let bytes = Zeroizing::new(bytes.map_err(|_| WalletError::HiddenPassword)?);
    let bytes = Zeroizing::new(combined(variable, &bytes));
    std::str::from_utf8(&bytes)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| WalletError::HiddenPassword)
}

/// Hides a password as [`reveal_password`] reads it.
pub fn hide_password(variable: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(combined(variable, password.as_bytes()))
}

fn combined(variable: &str, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().zip(variable.bytes().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_passwords_come_back() {
        let variable = password_variable("/home/a b/.bittensor/wallets/w/coldkey");
        assert_eq!(variable, "BT_PW__HOME_A B__BITTENSOR_WALLETS_W_COLDKEY");
        let hidden = hide_password(&variable, "hunter2 é");
        assert!(!hidden.contains("hunter2"));
        assert_eq!(reveal_password(&variable, &hidden).unwrap().as_str(), "hunter2 é");
        assert!(reveal_password(&variable, "no base64!").is_err());
    }
}
