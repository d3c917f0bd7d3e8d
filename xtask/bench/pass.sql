-- One pass: a table filled, indexed, changed, summed up and dropped. The program that feeds it to sqlite3
-- measures the processor time of that process.
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer TEXT, amount REAL, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
INSERT INTO orders SELECT i, 'customer ' || (i % 97), i * 1.25, printf('note %d of %s', i, hex(i * 7919)) FROM n;
CREATE INDEX by_customer ON orders(customer, amount);
UPDATE orders SET note = upper(note) || customer WHERE id % 3 = 0;
SELECT sum(length(entry)) FROM
  (SELECT customer || group_concat(note, ',') AS entry FROM orders GROUP BY customer ORDER BY sum(amount) DESC);
SELECT count(*) FROM (SELECT json_object('id', id, 'note', note, 'amount', amount) AS entry FROM orders WHERE length(entry) > 9);
DROP TABLE orders;
