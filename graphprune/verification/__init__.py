"""The proof that a compact program equals the masked one."""
