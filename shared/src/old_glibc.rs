//! `hypot` of our own, so that programs built where glibc is 2.35 or newer start where it is 2.34 (`AlmaLinux` 9).
//!
//! glibc 2.35 gave `hypot` and `hypotf` a new symbol version, which a linker on a newer system takes; nothing else that
//! the programs use is younger than 2.34 (`scripts/package.sh` looks). A definition in the program itself comes first.

#![expect(unsafe_code, reason = "the names must be those that C code and std call; see the module's text")]

/// The length of the vector (x, y), in f64.
#[unsafe(no_mangle)]
pub extern "C" fn hypot(x: f64, y: f64) -> f64 {
    libm::hypot(x, y)
}

/// The length of the vector (x, y), in f32.
#[unsafe(no_mangle)]
pub extern "C" fn hypotf(x: f32, y: f32) -> f32 {
    libm::hypotf(x, y)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lengths_are_exact_where_they_can_be() {
        assert_eq!(super::hypot(3.0, -4.0).to_bits(), 5.0_f64.to_bits());
        assert_eq!(super::hypotf(5.0, 12.0).to_bits(), 13.0_f32.to_bits());
        // The squares are beyond the largest number.
        let large = 2.0_f64.powi(600);
        assert_eq!(super::hypot(3.0 * large, 4.0 * large).to_bits(), (5.0 * large).to_bits());
    }
}
