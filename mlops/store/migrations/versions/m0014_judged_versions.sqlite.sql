ALTER TABLE version ADD COLUMN judged_on TEXT
