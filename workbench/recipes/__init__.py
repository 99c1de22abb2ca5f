"""What each command does: its configuration, its stages and the sections of its report."""
