"""The registrar: tokens, device keys, their certificates, and who may not come back."""
