"""The paper's update rule and schedule (section 5)."""
