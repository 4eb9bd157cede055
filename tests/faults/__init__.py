"""What goes wrong where redtier runs: servers die, networks cut and stall, clients misbehave."""
