//! Signatures as text, and the text that a wallet signs.

use std::borrow::Cow;

/// Reads `0x` and 128 hexadecimal digits in either case, as SDK 8 to 10 do (§6.2).
///
/// # Errors
///
/// With the texts of the reference (§9.4).
pub fn parse_signature_hex(text: &str) -> Result<[u8; 64], SignatureError> {
    // The wallet strips the prefix as often as it is there.
    let digits =
        text.strip_prefix("0x").ok_or(SignatureError::NotHexText)?.trim_start_matches("0x");
    let mut signature = [0; 64];
    let mut wrong = digits.len() != 2 * signature.len();
    for (byte, [high, low]) in signature.iter_mut().zip(digits.as_bytes().as_chunks().0) {
        let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
        wrong |= (high | low) > 0xf;
        *byte = high << 4 | low & 0xf;
    }
    if wrong {
        // Of the wrong length, or a bad digit, which would be named first.
        let named = hex::decode(digits).err();
        return Err(named.map_or(SignatureError::Length, SignatureError::Hex));
    }
    Ok(signature)
}

/// What a byte means as a hexadecimal digit; 0xff if it is none.
static DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        digits[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digits[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

/// Writes a signature as the wire wants it: `0x` and 128 lower-case digits.
pub fn signature_hex(signature: &[u8; 64]) -> String {
    let mut text = String::with_capacity(130);
    text.push_str("0x");
    text.push_str(&hex::encode(signature));
    text
}

/// Why a text is no signature. The texts are those of SDK 8 to 10 (§9.4), hence the capitals.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum SignatureError {
    /// Does not begin with `0x`.
    #[error("Invalid signature format. Expected hex string.")]
    NotHexText,
    /// Not hexadecimal, or an odd number of digits.
    #[error("Invalid hex string: {0:?}")]
    Hex(hex::FromHexError),
    /// Not 64 bytes.
    #[error("Invalid SR25519 signature.")]
    Length,
}

/// The bytes the Python wallet signs for a text: of one that begins with `0x`, the bytes it spells
/// (§6.2). No message of the wire begins so; for command lines.
///
/// # Errors
///
/// Fails where the wallet does: `0x` and then no hexadecimal.
pub fn wallet_message(text: &str) -> Result<Cow<'_, [u8]>, SignatureError> {
    match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).map(Cow::Owned).map_err(SignatureError::Hex),
        None => Ok(Cow::Borrowed(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn unreadable(text: &str, expected: &str) {
        assert_eq!(parse_signature_hex(text).unwrap_err().to_string(), expected, "{text:?}");
    }

    #[test]
    fn signature_text_is_refused_in_the_words_of_the_sdk() {
        assert_eq!(parse_signature_hex(&format!("0x{}", "Ab".repeat(64))), Ok([0xab; 64]));
        assert_eq!(signature_hex(&[0xab; 64]), format!("0x{}", "ab".repeat(64)));
        unreadable("", "Invalid signature format. Expected hex string.");
        unreadable(&"ab".repeat(64), "Invalid signature format. Expected hex string.");
        unreadable(
            &format!("0X{}", "ab".repeat(64)),
            "Invalid signature format. Expected hex string.",
        );
        unreadable("0xzz", "Invalid hex string: InvalidHexCharacter { c: 'z', index: 0 }");
        unreadable(
            &format!("0x{}", "zz".repeat(64)),
            "Invalid hex string: InvalidHexCharacter { c: 'z', index: 0 }",
        );
        unreadable("0xabc", "Invalid hex string: OddLength");
        unreadable("0x", "Invalid SR25519 signature.");
        unreadable(&format!("0x{}", "ab".repeat(65)), "Invalid SR25519 signature.");
    }

    proptest::proptest! {
        #[test]
        fn no_signature_text_panics(text in "(0x)?[0-9a-fA-Fxyz é]{0,140}") {
            let _ = parse_signature_hex(&text);
        }
    }
}
