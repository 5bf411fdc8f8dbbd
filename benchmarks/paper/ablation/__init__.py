"""An ablation of the choices in scoring, changed one at a time, before and after training."""
