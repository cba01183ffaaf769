"""What is measured, one group of scenarios a file."""
