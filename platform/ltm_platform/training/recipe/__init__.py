"""What a job's recipe asks for: network, loss, optimizer, mixing, teacher, the method's hooks."""
