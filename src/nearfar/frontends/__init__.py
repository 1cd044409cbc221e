"""Log-mel front ends."""
