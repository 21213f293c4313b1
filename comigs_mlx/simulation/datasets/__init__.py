"""Makes one folder for each participant from public corpora, for simulations."""
