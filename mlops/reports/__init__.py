"""What people would rather see than read: model cards and the pictures in them."""
