-- The ledger. PostgreSQL 15 or later. All money is in pico-dollars (1e-12 USD).
--
-- Hot path: `post_batch` alone writes hold, request, transfer, request_label, key_month and the balances in account.
-- There are no foreign keys on those tables: a check per row would lock the few account rows that everyone shares.
-- `caduceus audit` proves instead what they would.

-- Who pays ------------------------------------------------------------------------------------------------------------

CREATE TABLE plan (
    name text PRIMARY KEY,
    markup_ppm bigint CHECK (markup_ppm > -1000000),  -- on the endpoint's price; null: only the plan's own prices
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE tenant (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name <> ''),
    plan text REFERENCES plan,  -- null: pass-through without markup
    jurisdictions text[],  -- null: all
    credit_limit_pusd numeric(38, 0) NOT NULL DEFAULT 0 CHECK (credit_limit_pusd >= 0),  -- above zero: postpaid
    internal boolean NOT NULL DEFAULT false,  -- gets statements, not invoices
    suspended boolean NOT NULL DEFAULT false,
    legal_name text,
    address text[],
    country text,
    vat_id text,
    email text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE api_key (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL REFERENCES tenant,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE,  -- keyed; the key itself is nowhere
    hint text NOT NULL,  -- its last characters, to tell keys apart
    rpm integer CHECK (rpm > 0),
    tpm integer CHECK (tpm > 0),
    concurrency integer CHECK (concurrency > 0),
    budget_pusd numeric(38, 0) CHECK (budget_pusd >= 0),  -- a UTC month
    stream_usage text NOT NULL DEFAULT 'on_request' CHECK (stream_usage IN ('on_request', 'always')),
    reasoning_format text NOT NULL DEFAULT 'both'
        CHECK (reasoning_format IN ('both', 'reasoning', 'reasoning_content', 'details', 'inline', 'none')),
    continuation boolean NOT NULL DEFAULT true,  -- may a cut answer go on at another endpoint
    expires_at timestamptz,
    revoked_at timestamptz,
    rotated_from bigint REFERENCES api_key,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX api_key_tenant ON api_key (tenant_id);

CREATE TABLE price (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject_kind text NOT NULL CHECK (subject_kind IN ('endpoint', 'plan')),
    subject text NOT NULL,
    input_pusd bigint NOT NULL CHECK (input_pusd >= 0),  -- a token
    output_pusd bigint NOT NULL CHECK (output_pusd >= 0),
    cached_input_pusd bigint NOT NULL CHECK (cached_input_pusd >= 0),
    starts_at timestamptz NOT NULL,
    source text NOT NULL CHECK (source IN ('file', 'cli')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX price_subject ON price (subject_kind, subject, starts_at);

-- One number that moves whenever a key, tenant, plan or price does; every process looks at it twice a second.
CREATE TABLE change_counter (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version bigint NOT NULL);
INSERT INTO change_counter (version) VALUES (1);

CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE change_counter SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON tenant FOR EACH STATEMENT EXECUTE FUNCTION count_change();
CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON api_key FOR EACH STATEMENT EXECUTE FUNCTION count_change();
CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON plan FOR EACH STATEMENT EXECUTE FUNCTION count_change();
CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON price FOR EACH STATEMENT EXECUTE FUNCTION count_change();

-- Accounts ------------------------------------------------------------------------------------------------------------

-- A tenant's account carries its balance = available + held - owed, of which available and owed are never both above
-- zero. Shared accounts carry none: their balance is the sum of the journal, so that no request ever locks them.
CREATE TABLE account (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN (
        'tenant', 'cash', 'granted', 'revenue', 'cost', 'disputed', 'payable',
        'sandbox_revenue', 'sandbox_cost', 'sandbox_disputed', 'sandbox_payable')),
    tenant_id bigint UNIQUE REFERENCES tenant,
    provider text,
    available numeric(38, 0) CHECK (available >= 0),
    held numeric(38, 0) CHECK (held >= 0),
    owed numeric(38, 0) CHECK (owed >= 0),
    CHECK ((kind = 'tenant') = (tenant_id IS NOT NULL)),
    CHECK ((kind IN ('payable', 'sandbox_payable')) = (provider IS NOT NULL)),
    CHECK (num_nulls(available, held, owed) = CASE kind WHEN 'tenant' THEN 0 ELSE 3 END),
    CHECK (available = 0 OR owed = 0),
    UNIQUE NULLS NOT DISTINCT (kind, tenant_id, provider)
) WITH (fillfactor = 50);

INSERT INTO account (kind) VALUES
    ('cash'), ('granted'), ('revenue'), ('cost'), ('disputed'),
    ('sandbox_revenue'), ('sandbox_cost'), ('sandbox_disputed');

-- Processes and what they hold ----------------------------------------------------------------------------------------

CREATE TABLE server (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- one run of one process
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz NOT NULL
);
CREATE INDEX server_name ON server (name);

CREATE TABLE hold (
    request_id uuid PRIMARY KEY,
    account_id bigint NOT NULL,
    tenant_id bigint NOT NULL,
    key_id bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    owner bigint NOT NULL,  -- server.id
    pins json NOT NULL,  -- endpoint -> provider and prices; see ledger/pins.py
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    checkpointed_at timestamptz,  -- null: no upstream byte came yet
    checkpoint_endpoint text,
    checkpoint_prompt integer,
    checkpoint_cached integer,
    checkpoint_completion integer,
    checkpoint_reasoning integer
) WITH (fillfactor = 60);
CREATE INDEX hold_owner ON hold (owner);
CREATE INDEX hold_key ON hold (key_id);

-- The journal ---------------------------------------------------------------------------------------------------------

-- A movement of one amount from one account to another: balanced by construction. Ordinals of a request: below 100 as it
-- was settled; 100 and more reverse those below, 200 and more replace them, when a settlement found its hold swept.
CREATE TABLE transfer (
    transaction_id uuid NOT NULL,
    ordinal smallint NOT NULL CHECK (ordinal >= 0),
    debit_account bigint NOT NULL,
    credit_account bigint NOT NULL CHECK (credit_account <> debit_account),
    amount numeric(38, 0) NOT NULL CHECK (amount > 0),
    kind text NOT NULL CHECK (kind IN ('charge', 'cost', 'disputed', 'credit', 'reversal')),
    corrects_transaction uuid,
    corrects_ordinal smallint,
    posted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (transaction_id, ordinal),
    CHECK ((kind = 'reversal') = (corrects_ordinal IS NOT NULL)),
    CHECK (num_nulls(corrects_transaction, corrects_ordinal) <> 1)
) PARTITION BY RANGE (transaction_id);
CREATE INDEX transfer_debit ON transfer (debit_account, posted_at);

-- One row a finished request. Few checks, each of several columns: Postgres reads them anew for every statement.
CREATE TABLE request (
    id uuid PRIMARY KEY,
    tenant_id bigint NOT NULL,
    key_id bigint NOT NULL,
    account_id bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('completed', 'client_left', 'cut', 'failed', 'expired')),
    swept boolean NOT NULL DEFAULT false,  -- settled by a sweep, from its last checkpoint
    surface text,
    model text,
    endpoint text,
    region text,
    prompt_tokens integer NOT NULL,
    cached_tokens integer NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
    completion_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL CHECK (reasoning_tokens BETWEEN 0 AND completion_tokens),
    usage_source text CHECK (usage_source IN ('provider', 'continuous', 'counted', 'estimated')),
    hold_pusd bigint NOT NULL,
    charge_pusd bigint NOT NULL CHECK (charge_pusd <= hold_pusd),
    sandbox_charge_pusd bigint NOT NULL CHECK (sandbox_charge_pusd BETWEEN 0 AND charge_pusd),
    cost_pusd bigint NOT NULL,
    disputed_pusd bigint NOT NULL,
    overrun_pusd bigint NOT NULL CHECK (least(cost_pusd, disputed_pusd, overrun_pusd) >= 0),
    flags text[] NOT NULL DEFAULT '{}',
    lines json NOT NULL DEFAULT '[]',  -- what the charge is made of: see ledger/journal.py
    costs json NOT NULL DEFAULT '[]',  -- what each attempt cost, with the provider's own count
    attempts json,
    upstream_contacted boolean NOT NULL,
    ttft_ms integer,
    total_ms integer NOT NULL,
    posted_at timestamptz NOT NULL
) PARTITION BY RANGE (id);
CREATE INDEX request_tenant ON request (tenant_id, posted_at);

-- What a client said about its request. Erasable, and therefore not in the journal.
CREATE TABLE request_label (
    request_id uuid PRIMARY KEY,
    tenant_id bigint NOT NULL,
    user_label text,
    metadata json
) PARTITION BY RANGE (request_id);
CREATE INDEX request_label_user ON request_label (tenant_id, user_label) WHERE user_label IS NOT NULL;

-- The settlement that came after its hold had been swept; its `lines` replace those of the request.
CREATE TABLE correction (
    request_id uuid PRIMARY KEY,
    tenant_id bigint NOT NULL,
    difference_pusd bigint NOT NULL,  -- what the charge grew by
    sandbox_difference_pusd bigint NOT NULL,
    prompt_tokens integer NOT NULL,
    cached_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL,
    usage_source text,
    lines json NOT NULL,
    costs json NOT NULL,
    posted_at timestamptz NOT NULL
);
CREATE INDEX correction_tenant ON correction (tenant_id, posted_at);

-- Money that came in, idempotent by reference.
CREATE TABLE credit (
    tenant_id bigint NOT NULL REFERENCES tenant,
    reference text NOT NULL CHECK (reference <> ''),
    kind text NOT NULL CHECK (kind IN ('paid', 'granted')),
    amount_pusd numeric(38, 0) NOT NULL CHECK (amount_pusd > 0),
    transaction_id uuid NOT NULL UNIQUE,
    posted_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, reference)
);

-- What a key was charged in a UTC month: the budget's side of the request rows.
CREATE TABLE key_month (
    key_id bigint NOT NULL,
    month date NOT NULL,
    charged_pusd numeric(38, 0) NOT NULL,
    PRIMARY KEY (key_id, month)
) WITH (fillfactor = 50);

-- Legal papers --------------------------------------------------------------------------------------------------------

CREATE TABLE series (name text PRIMARY KEY, next_number bigint NOT NULL DEFAULT 1 CHECK (next_number > 0));

CREATE TABLE invoice (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('invoice', 'credit_note', 'statement')),
    number text NOT NULL UNIQUE,
    tenant_id bigint NOT NULL REFERENCES tenant,
    month date NOT NULL,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_end >= period_start),
    interim boolean NOT NULL,
    currency text NOT NULL,
    exact_pusd numeric(38, 0) NOT NULL,  -- the charges of the period, unrounded
    subtotal_pusd numeric(38, 0) NOT NULL,
    tax_pusd numeric(38, 0) NOT NULL,
    total_pusd numeric(38, 0) NOT NULL CHECK (total_pusd = subtotal_pusd + tax_pusd),
    prepaid_pusd numeric(38, 0) NOT NULL,
    due_pusd numeric(38, 0) NOT NULL CHECK (due_pusd = total_pusd - prepaid_pusd),
    cancels bigint UNIQUE REFERENCES invoice,
    replaces bigint REFERENCES invoice,
    document json NOT NULL,  -- the paper as it was issued
    issued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((kind = 'credit_note') = (cancels IS NOT NULL))
);
CREATE INDEX invoice_tenant ON invoice (tenant_id, month);

CREATE TABLE invoice_line (
    invoice_id bigint NOT NULL REFERENCES invoice,
    ordinal integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('prompt', 'cached_prompt', 'completion', 'beyond_hold', 'rounding')),
    correction boolean NOT NULL,
    endpoint text,
    price_version bigint,
    quantity bigint,
    unit_price_pusd bigint,
    amount_pusd numeric(38, 0) NOT NULL,
    PRIMARY KEY (invoice_id, ordinal)
);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before json,
    after json
);

-- Append-only, by Postgres itself -------------------------------------------------------------------------------------

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: post a correction instead', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['transfer', 'request', 'correction', 'credit', 'price', 'invoice', 'invoice_line', 'audit_log']
    LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I'
            ' FOR EACH ROW EXECUTE FUNCTION refuse_change()', name);
        EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON %I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
    END LOOP;
END $$;

-- Partitions ----------------------------------------------------------------------------------------------------------

CREATE TABLE transfer_default PARTITION OF transfer DEFAULT;
CREATE TABLE request_default PARTITION OF request DEFAULT;
CREATE TABLE request_label_default PARTITION OF request_label DEFAULT;

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION lowest_id(at timestamptz) RETURNS uuid IMMUTABLE LANGUAGE sql AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Partitions of last month (clocks differ), of this one and of `months` to come, where they are missing. Attaching one
-- locks the default partition; where a long report reads that, this gives way at once and leaves it to the next attempt,
-- lest every request queue up behind it.
CREATE FUNCTION ensure_partitions(months integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '200ms' AS $$
DECLARE
    parent text;
    part text;
    first_day timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('caduceus.ensure_partitions'));
    FOR ahead IN -1 .. least(months, 24) LOOP
        first_day := (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + ahead * interval '1 month')
            AT TIME ZONE 'UTC';
        FOREACH parent IN ARRAY ARRAY['transfer', 'request', 'request_label'] LOOP
            part := parent || to_char(first_day AT TIME ZONE 'UTC', '_YYYY_MM');
            CONTINUE WHEN to_regclass(part) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
                lowest_id(first_day),
                lowest_id((first_day AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'));
            IF parent <> 'request_label' THEN
                EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON %I'
                    ' FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', part);
            END IF;
        END LOOP;
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    RAISE WARNING 'partitions are left for later: the journal is being read';
END $$;

CREATE TRIGGER never_truncated BEFORE TRUNCATE ON transfer_default FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON request_default FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

SELECT ensure_partitions(3);

-- The group commit -------------------------------------------------------------------------------------------------------

-- What travels in a batch; the fields and their order are those of ledger/writes.py.
CREATE TYPE checkpoint_row AS (
    request_id uuid, endpoint text, prompt integer, cached integer, completion integer, reasoning integer);
CREATE TYPE hold_row AS (
    request_id uuid, account_id bigint, tenant_id bigint, key_id bigint, amount bigint, credit_limit bigint,
    owner bigint, expires_after_s double precision, pins json);
CREATE TYPE settlement_row AS (
    id uuid, tenant_id bigint, key_id bigint, account_id bigint, state text, swept boolean, surface text, model text,
    endpoint text, region text, prompt_tokens integer, cached_tokens integer, completion_tokens integer,
    reasoning_tokens integer, usage_source text, hold_pusd bigint, charge_pusd bigint, sandbox_charge_pusd bigint,
    cost_pusd bigint, disputed_pusd bigint, overrun_pusd bigint, flags text[], lines json, costs json, attempts json,
    upstream_contacted boolean, ttft_ms integer, total_ms integer, user_label text, metadata json);
-- `credit` is null where the process does not know the payable account, of `payable` kind, of `provider` yet.
CREATE TYPE transfer_row AS (
    id uuid, ordinal smallint, debit bigint, credit bigint, amount bigint, kind text, payable text, provider text);

-- Where an account's position goes when `change` is added to it: new credit pays what is owed first, and a debit takes
-- what is available first, so the two are one signed number.
CREATE FUNCTION move_balances(accounts bigint[], changes numeric[], held_changes numeric[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE account
    SET held = held + moved.held_change,
        available = greatest(available - owed + moved.change, 0),
        owed = greatest(-(available - owed + moved.change), 0)
    FROM unnest(accounts, changes, held_changes) AS moved (id, change, held_change)
    WHERE account.id = moved.id;
END $$;

-- One batch, in one transaction: checkpoints, then holds given back, then settlements with their transfers, then new
-- holds. `accounts` are all that it touches; parts may be empty. Everything may be posted again and changes nothing.
-- Returns of each hold in order its outcome (0 held, 1 not enough credit, 2 beyond the key's budget, 3 the request is
-- over already) and what would still be affordable after it.
CREATE FUNCTION post_batch(
    accounts bigint[], checkpoints checkpoint_row[], voids uuid[], settlements settlement_row[],
    transfers transfer_row[], holds hold_row[], OUT outcomes smallint[], OUT affordable bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    posted timestamptz;
BEGIN
    IF EXISTS (SELECT FROM unnest(transfers) AS given WHERE given.credit IS NULL) THEN
        transfers := with_payables(transfers);
    END IF;
    PERFORM 1 FROM account WHERE id = ANY (accounts) ORDER BY id FOR UPDATE;
    -- After the lock: an invoice that held the lock before has closed its period at an earlier instant.
    posted := clock_timestamp();
    IF cardinality(checkpoints) > 0 THEN
        PERFORM post_checkpoints(checkpoints, posted);
    END IF;
    IF cardinality(voids) > 0 THEN
        PERFORM post_voids(voids);
    END IF;
    IF cardinality(settlements) > 0 THEN
        PERFORM post_settlements(settlements, transfers, posted);
    END IF;
    IF cardinality(holds) > 0 THEN
        SELECT * INTO outcomes, affordable FROM post_holds(holds, posted);
    END IF;
END $$;

-- The accounts of what we owe to providers, made where they are missing.
CREATE FUNCTION with_payables(transfers transfer_row[]) RETURNS transfer_row[] LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account (kind, provider)
    SELECT DISTINCT payable, provider FROM unnest(transfers) WHERE credit IS NULL ORDER BY payable, provider
    ON CONFLICT DO NOTHING;
    RETURN ARRAY(
        SELECT ROW(given.id, ordinal, debit, coalesce(credit, account.id), amount, given.kind, payable,
            given.provider)::transfer_row
        FROM unnest(transfers) AS given
        LEFT JOIN account ON account.kind = payable AND account.provider = given.provider AND credit IS NULL);
END $$;

CREATE FUNCTION post_checkpoints(checkpoints checkpoint_row[], posted timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE hold
    SET checkpointed_at = posted, checkpoint_endpoint = given.endpoint, checkpoint_prompt = given.prompt,
        checkpoint_cached = given.cached, checkpoint_completion = given.completion,
        checkpoint_reasoning = given.reasoning
    FROM unnest(checkpoints) AS given
    WHERE hold.request_id = given.request_id;
END $$;

CREATE FUNCTION post_voids(voids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    WITH released AS (
        DELETE FROM hold WHERE request_id = ANY (voids) RETURNING account_id, amount
    ), by_account AS (
        SELECT account_id, sum(amount) AS amount FROM released GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(amount), array_agg(-amount)) FROM by_account
    )
    SELECT count(*) INTO changed FROM balanced;
END $$;

CREATE FUNCTION post_settlements(settlements settlement_row[], transfers transfer_row[], posted timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    written_rows bigint;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(settlements)
    ), released AS (
        DELETE FROM hold WHERE request_id = ANY (ARRAY(SELECT id FROM given)) RETURNING request_id, amount
    ), written AS (
        INSERT INTO request (id, tenant_id, key_id, account_id, state, swept, surface, model, endpoint, region,
            prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, usage_source, hold_pusd, charge_pusd,
            sandbox_charge_pusd, cost_pusd, disputed_pusd, overrun_pusd, flags, lines, costs, attempts,
            upstream_contacted, ttft_ms, total_ms, posted_at)
        SELECT id, tenant_id, key_id, account_id, state, swept, surface, model, endpoint, region,
            prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, usage_source,
            coalesce(released.amount, hold_pusd), charge_pusd,
            sandbox_charge_pusd, cost_pusd, disputed_pusd, overrun_pusd,
            CASE WHEN released.amount IS NULL AND charge_pusd > 0 THEN flags || 'without_hold'::text ELSE flags END,
            lines, costs, attempts, upstream_contacted, ttft_ms, total_ms, posted
        FROM given LEFT JOIN released ON released.request_id = given.id
        ON CONFLICT DO NOTHING
        RETURNING id, account_id, key_id, charge_pusd
    ), moved AS (
        INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind, posted_at)
        SELECT t.id, t.ordinal, t.debit, t.credit, t.amount, t.kind, posted
        FROM unnest(transfers) AS t JOIN written ON written.id = t.id
    ), labelled AS (
        INSERT INTO request_label (request_id, tenant_id, user_label, metadata)
        SELECT id, tenant_id, user_label, metadata
        FROM given WHERE num_nonnulls(user_label, metadata) > 0
        ON CONFLICT DO NOTHING
    ), spent AS (
        INSERT INTO key_month (key_id, month, charged_pusd)
        SELECT key_id, date_trunc('month', posted AT TIME ZONE 'UTC')::date, sum(charge_pusd)
        FROM written WHERE charge_pusd > 0 GROUP BY key_id ORDER BY key_id
        ON CONFLICT (key_id, month) DO UPDATE SET charged_pusd = key_month.charged_pusd + excluded.charged_pusd
    ), by_account AS (
        SELECT account_id, count(*) AS rows, sum(coalesce(amount, 0)) AS released, sum(charge_pusd) AS charged
        FROM written LEFT JOIN released ON released.request_id = written.id GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(released - charged), array_agg(-released)) FROM by_account
    )
    SELECT coalesce(sum(rows), 0) INTO written_rows FROM by_account, balanced;
    IF written_rows < cardinality(settlements) THEN
        PERFORM post_late_settlements(settlements, transfers, posted);
    END IF;
END $$;

-- Settlements whose hold a sweep had settled by estimate: what it posted is reversed and replaced, once.
CREATE FUNCTION post_late_settlements(
    settlements settlement_row[], transfers transfer_row[], posted timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT id FROM unnest(settlements) ORDER BY id);
    changed bigint;
BEGIN
    WITH swept AS MATERIALIZED (
        SELECT * FROM request
        WHERE id = ANY (ids) AND id BETWEEN ids[1] AND ids[cardinality(ids)] AND request.swept
    ), late AS (
        INSERT INTO correction (request_id, tenant_id, difference_pusd, sandbox_difference_pusd, prompt_tokens,
            cached_tokens, completion_tokens, reasoning_tokens, usage_source, lines, costs, posted_at)
        SELECT given.id, swept.tenant_id, given.charge_pusd - swept.charge_pusd,
            given.sandbox_charge_pusd - swept.sandbox_charge_pusd, given.prompt_tokens, given.cached_tokens,
            given.completion_tokens, given.reasoning_tokens, given.usage_source, given.lines, given.costs, posted
        FROM unnest(settlements) AS given JOIN swept ON swept.id = given.id AND NOT given.swept
        ON CONFLICT DO NOTHING
        RETURNING request_id, difference_pusd
    ), reversed AS (
        INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind,
            corrects_transaction, corrects_ordinal, posted_at)
        SELECT t.transaction_id, 100 + t.ordinal, t.credit_account, t.debit_account, t.amount, 'reversal',
            t.transaction_id, t.ordinal, posted
        FROM transfer AS t
        WHERE transaction_id = ANY (ARRAY(SELECT request_id FROM late))
            AND transaction_id BETWEEN ids[1] AND ids[cardinality(ids)]
    ), replaced AS (
        INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind, posted_at)
        SELECT t.id, 200 + t.ordinal, t.debit, t.credit, t.amount, t.kind, posted
        FROM unnest(transfers) AS t JOIN late ON late.request_id = t.id
    ), spent AS (
        INSERT INTO key_month (key_id, month, charged_pusd)
        SELECT key_id, date_trunc('month', posted AT TIME ZONE 'UTC')::date, sum(difference_pusd)
        FROM late JOIN swept ON swept.id = late.request_id GROUP BY key_id ORDER BY key_id
        ON CONFLICT (key_id, month) DO UPDATE SET charged_pusd = key_month.charged_pusd + excluded.charged_pusd
    ), by_account AS (
        SELECT account_id, sum(difference_pusd) AS difference
        FROM late JOIN swept ON swept.id = late.request_id GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(-difference), array_agg(0::numeric)) FROM by_account
    )
    SELECT count(*) INTO changed FROM balanced;
END $$;

-- Holds are granted in the order of their arrival to whoever still fits: one too large does not shut out the next.
CREATE FUNCTION post_holds(holds hold_row[], posted timestamptz, OUT outcomes smallint[], OUT affordable bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    -- `= ANY (ids)` always takes the index; BETWEEN the first and the last prunes partitions, which ANY does not.
    ids uuid[] := ARRAY(SELECT request_id FROM unnest(holds) ORDER BY request_id);
    held_ids uuid[] := ARRAY(SELECT request_id FROM hold WHERE request_id = ANY (ids));
    over_ids uuid[] := ARRAY(
        SELECT id FROM request WHERE id = ANY (ids) AND id BETWEEN ids[1] AND ids[cardinality(ids)]);
    entry record;
    current_account bigint := 0;
    left_pusd numeric;  -- of the account: available - owed
    budgets jsonb := '{}';  -- of the keys that have one: what is left of it
    budget numeric;
    room numeric;
    changed bigint;
BEGIN
    outcomes := array_fill(0::smallint, ARRAY[cardinality(holds)]);
    affordable := array_fill(0::bigint, ARRAY[cardinality(holds)]);
    FOR entry IN
        SELECT given.n, given.account_id, given.key_id, given.amount, given.credit_limit,
            account.available - account.owed AS position_pusd, api_key.budget_pusd,
            given.request_id = ANY (held_ids) AS is_held, given.request_id = ANY (over_ids) AS is_over
        FROM unnest(holds) WITH ORDINALITY AS given (
            request_id, account_id, tenant_id, key_id, amount, credit_limit, owner, expires_after_s, pins, n)
        LEFT JOIN account ON account.id = given.account_id AND account.kind = 'tenant'
        LEFT JOIN api_key ON api_key.id = given.key_id AND api_key.budget_pusd IS NOT NULL
        ORDER BY given.account_id, given.n
    LOOP
        IF entry.position_pusd IS NULL THEN
            RAISE EXCEPTION 'account % is no tenant''s', entry.account_id USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF entry.account_id <> current_account THEN
            current_account := entry.account_id;
            left_pusd := entry.position_pusd;
        END IF;
        room := left_pusd + entry.credit_limit;
        IF entry.budget_pusd IS NOT NULL THEN
            budget := coalesce((budgets ->> entry.key_id::text)::numeric,
                entry.budget_pusd - spent_of_key(entry.key_id, posted));
        ELSE
            budget := room;
        END IF;
        IF entry.is_over THEN
            outcomes[entry.n] := 3;
        ELSIF NOT entry.is_held AND entry.amount > room THEN
            outcomes[entry.n] := 1;
        ELSIF NOT entry.is_held AND entry.amount > budget THEN
            outcomes[entry.n] := 2;
        ELSIF NOT entry.is_held THEN
            left_pusd := left_pusd - entry.amount;
            room := room - entry.amount;
            budget := budget - entry.amount;
        END IF;
        IF entry.budget_pusd IS NOT NULL THEN
            budgets := budgets || jsonb_build_object(entry.key_id, budget);
        END IF;
        affordable[entry.n] := least(greatest(least(room, budget), 0), 9223372036854775807);
    END LOOP;
    WITH written AS (
        INSERT INTO hold (request_id, account_id, tenant_id, key_id, amount, owner, pins, created_at, expires_at)
        SELECT request_id, account_id, tenant_id, key_id, amount, owner, pins, posted,
            posted + make_interval(secs => expires_after_s)
        FROM unnest(holds) WITH ORDINALITY AS given (
            request_id, account_id, tenant_id, key_id, amount, credit_limit, owner, expires_after_s, pins, n)
        WHERE outcomes[n] = 0
        ON CONFLICT DO NOTHING
        RETURNING account_id, amount
    ), by_account AS (
        SELECT account_id, sum(amount) AS amount FROM written GROUP BY account_id
    ), balanced AS (
        SELECT move_balances(array_agg(account_id), array_agg(-amount), array_agg(amount)) FROM by_account
    )
    SELECT count(*) INTO changed FROM balanced;
END $$;

-- What counts against a key's budget: its charges of this UTC month and everything it holds.
CREATE FUNCTION spent_of_key(key bigint, at timestamptz) RETURNS numeric STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce((SELECT charged_pusd FROM key_month
            WHERE key_id = key AND month = date_trunc('month', at AT TIME ZONE 'UTC')::date), 0)
        + coalesce((SELECT sum(amount) FROM hold WHERE key_id = key), 0);
END $$;

-- The serving role: it may add to the journal and read it, never change it --------------------------------------------

DO $$
BEGIN
    CREATE ROLE caduceus_serving NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- a role belongs to the whole cluster; another database's migration was first
END $$;

-- Whoever created the role may administer it, but since PostgreSQL 16 not yet assume it.
GRANT caduceus_serving TO CURRENT_USER;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO caduceus_serving;
GRANT INSERT ON transfer, request, correction, credit, price, invoice, invoice_line, audit_log, request_label, hold,
    server, account, tenant, api_key, plan, series, key_month TO caduceus_serving;
GRANT UPDATE ON change_counter, tenant, api_key, plan, server, series, request_label, hold, key_month
    TO caduceus_serving;
GRANT UPDATE (available, held, owed) ON account TO caduceus_serving;
GRANT DELETE ON hold, request_label, server TO caduceus_serving;
REVOKE EXECUTE ON FUNCTION ensure_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partitions TO caduceus_serving;
