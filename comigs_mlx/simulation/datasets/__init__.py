"""From public corpora to one folder a participant, for simulations."""
