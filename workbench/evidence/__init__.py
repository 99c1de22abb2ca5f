"""What is held against the model: rulers, null rulers, holdouts, gates, the screen of heads, and the methods of the benchmark."""
