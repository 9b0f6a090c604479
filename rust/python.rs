//! The border: the only file that names pyo3 or numpy. Its signatures are `python/microgpt/_core.pyi`.

use pyo3::prelude::*;

/// The extension module `microgpt._core`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
