"""What devices need: targets, kits, hosts that measure."""
