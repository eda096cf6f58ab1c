"""Run untrusted programs in processes of their own, and time them."""
